"""The curriculum over T, the number of contrastive attack steps (DAT, section on training)."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

_ROUNDING = 1e-12  # of a mean that is exactly the threshold


def window_length(window_images: int, global_batch: int) -> int:
    """Number of batches whose AUROC is averaged: ceil(window_images / global_batch); the paper has 1000."""
    return math.ceil(window_images / global_batch)


@dataclass
class Curriculum:
    """T grows by 1, up to `max_steps`, when the mean AUROC of a full window reaches `threshold`.

    The AUROC is that of f(.)[y], real against contrastive, over the global batch. The window restarts at
    each new T.
    """

    num_steps: int
    max_steps: int
    threshold: float
    window: int
    recent: list[float] = field(default_factory=list)

    def update(self, auroc: float) -> None:
        """Takes the AUROC of one batch, in [0, 1]."""
        self.recent = [*self.recent, auroc][-self.window :]
        full = len(self.recent) == self.window
        reached = math.fsum(self.recent) >= self.threshold * self.window - _ROUNDING
        if full and reached and self.num_steps < self.max_steps:
            self.num_steps += 1
            self.recent = []

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_steps, self.recent = state["num_steps"], list(state["recent"])
