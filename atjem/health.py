"""Whether a joint energy model still learns: thresholds on its energies, gradients and energy loss.

The energy term fails in two ways. It runs away (JEM's SGLD is known for it): the gap between the energies of
real and contrastive images, or the gradient that makes the contrastive ones, grows without end. Or it goes
silent: seeds that give themselves away keep AUROC at 1 at the curriculum's largest T, and a vanishing energy
loss teaches nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FEWEST_STEPS = 3  # contrastive images of fewer attack steps are seeds still, which any critic tells apart
PINNED_AUROC = 0.9999
VANISHING_LOSS = 1e-3  # nats; the energy's BCE of a critic that knows nothing is log 2

# What the watchdog reads of a step's metrics, where they are there.
WATCHED = ("loss", "energy_real", "energy_contrast", "input_gradient", "auroc", "energy_loss")


@dataclass(frozen=True)
class Limits:
    """max_energy_gap: nats; max_input_gradient: L2, of a logit by pixels; pinned_steps: in a row."""

    max_energy_gap: float
    max_input_gradient: float
    pinned_steps: int


@dataclass
class Watchdog:
    """Looks at every step's metrics in their order. `largest`: the curriculum's last T; None has none."""

    limits: Limits | None = None
    largest: int | None = None
    num_pinned: int = 0

    @property
    def calm(self) -> bool:
        """True while nothing points to trouble."""
        return self.num_pinned == 0

    def look(self, step: int, metrics: Mapping[str, float], num_steps: int) -> str | None:
        """What is wrong at a step, and what to change; None when nothing is. num_steps: the step's T."""
        if not math.isfinite(metrics["loss"]):
            return f"the loss is {metrics['loss']} at step {step}; lower optimizer.lr"
        if self.limits is None or (self.largest is not None and num_steps < FEWEST_STEPS):
            return None
        return self._runs_away(step, metrics, self.limits) or self._goes_silent(
            step, metrics, num_steps, self.limits
        )

    def state_dict(self) -> dict[str, Any]:
        return {"num_pinned": self.num_pinned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_pinned = state["num_pinned"]

    def _runs_away(self, step: int, metrics: Mapping[str, float], limits: Limits) -> str | None:
        gap = abs(metrics.get("energy_contrast", 0.0) - metrics.get("energy_real", 0.0))
        gradient = metrics.get("input_gradient", 0.0)
        for value, most, what in (
            (gap, limits.max_energy_gap, "nats lie between the energies of real and contrastive images"),
            (
                gradient,
                limits.max_input_gradient,
                "is the norm of the gradient that makes contrastive images",
            ),
        ):
            if not value <= most:  # also when it is no number
                return f"{value:.4g} {what} at step {step} (at most {most:g}); lower optimizer.lr"
        return None

    def _goes_silent(
        self, step: int, metrics: Mapping[str, float], num_steps: int, limits: Limits
    ) -> str | None:
        pinned = (
            num_steps == self.largest
            and metrics.get("auroc", 0.0) >= PINNED_AUROC
            and metrics.get("energy_loss", math.inf) <= VANISHING_LOSS
        )
        self.num_pinned = self.num_pinned + 1 if pinned else 0
        if self.num_pinned < limits.pinned_steps:
            return None
        return (
            f"AUROC has stood at 1 at the largest T={num_steps} for {self.num_pinned} steps, with an energy "
            f"loss below {VANISHING_LOSS:g}, by step {step}: nothing is being learned; raise "
            "contrastive.max_steps or contrastive.step_size, and see that seeds and images do not differ by "
            "colour, codec or borders"
        )
