"""What is to be run of a trial, and how it came out: plain data between the driver and the trials."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.recipe import Recipe
from pipelines.settings import Settings


@dataclass(frozen=True)
class Level:
    """Settings to run, and the training steps of the rung they belong to; None in full."""

    settings: Settings
    step: int | None


@dataclass(frozen=True, repr=False)
class Job:
    """A trial, or its repeat under another seed."""

    number: int
    seed: int | None  # of a repeat
    title: str
    recipe: Recipe
    levels: tuple[Level, ...]  # rungs, then in full

    @property
    def label(self) -> str:
        return f"trial {self.number}" + ("" if self.seed is None else f", seed {self.seed}")

    def __repr__(self) -> str:
        return self.label  # Ray Tune names folders by it


@dataclass(frozen=True)
class Result:
    """How a level came out: rung, done, failed, interrupted, or broken, which no trial can mend.

    `seconds`: of the nodes it executed.
    """

    outcome: str
    step: int | None
    cause: str = ""
    run_id: str = ""
    fingerprint: str = ""
    executed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the nodes that the objectives need

    @property
    def facts(self) -> dict[str, Any]:
        """What the study remembers of it, beside the work that it took."""
        return {"fingerprint": self.fingerprint, "metrics": dict(self.metrics)}

    @property
    def work(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "executed": list(self.executed), "seconds": self.seconds}
