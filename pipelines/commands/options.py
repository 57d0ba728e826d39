"""What a run's command line says, and the same as a command to go on by."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from data.redact import redact

DONE, FAILED = 0, 1  # exit codes; data.command_line and pipelines.usage have the others


@dataclass(frozen=True)
class Options:
    pipeline: str
    overrides: tuple[str, ...]
    start: str | None
    until: str | None
    force: tuple[str, ...]
    ray_address: str | None
    tracking_uri: str | None
    workdir: str
    smoke: bool
    trust_checkpoint: bool
    as_json: bool

    @property
    def title(self) -> str:
        """The run's name in MLflow: the recipe and what was changed."""
        words = [Path(self.pipeline).stem, *["--smoke"] * self.smoke, *self.overrides]
        words += ["--trust-checkpoint"] * self.trust_checkpoint
        return redact(" ".join(words))[:120]

    @property
    def command(self) -> str:
        """The command that goes on with this run."""
        words = ["python", "pipelines/run.py", "--pipeline", self.pipeline]
        words += [word for text in self.overrides for word in ("--set", text)]
        pairs = (
            ("--from", self.start),
            ("--until", self.until),
            ("--ray-address", self.ray_address),
            ("--tracking-uri", self.tracking_uri),
            ("--workdir", None if self.workdir == "runs" else self.workdir),
        )
        words += [word for option, value in pairs if value for word in (option, value)]
        words += ["--smoke"] * self.smoke + ["--trust-checkpoint"] * self.trust_checkpoint
        return redact(shlex.join(words + ["--json"] * self.as_json))
