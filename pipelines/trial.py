"""What a pipeline run is in a sweep."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """A pipeline run's place in a sweep, whose run is `parent`. `seed`: of a repeat."""

    sweep: str
    parent: str
    number: int
    seed: int | None
    rung: int | None  # training steps after which it is looked at; None in full

    @property
    def name(self) -> str:
        """The same whenever the trial is run."""
        return f"{self.sweep}/{self.number}" + ("" if self.seed is None else f"/seed {self.seed}")
