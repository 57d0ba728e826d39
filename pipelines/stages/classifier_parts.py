"""What a classifier makes of images, clean and attacked, in parts that any process can make."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from atjem.attacks import pgd
from atjem.balls import make_ball
from atjem.gate import lacks_gradient, order_difference
from atjem.models.precision import InPrecision
from atjem.objectives import Objective, confidence, marginal
from atjem.robustness import CLEAN, RECOUNT, attacks_of, autoattack, holds_under_pgd
from data.devices import to_device
from data.images import Images
from data.rng import stream_seed
from pipelines.context import StageContext
from pipelines.stages.inputs import as_float, labelled_images, load_network, pick_device, seed_images
from pipelines.stages.parts import Made, Part

Indices = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
PART_IMAGES = 500  # of the test images and of the start images, in a part


def outcomes_of(num_classes: int) -> list[str]:
    """What a number in `broken_by` stands for."""
    return ["", CLEAN, RECOUNT, *attacks_of(num_classes)]


def held_out_starts(context: StageContext) -> Images:
    """The OOD images: start images that no training has seen."""
    settings = context.settings
    return seed_images(
        context.inputs["data"],
        settings.data.ood,
        held_out=True,
        seed=stream_seed(settings.data.seed, "evaluate/ood"),
        channels=settings.model.channels,
        image_size=settings.data.image_size,
    )


class ClassifierMaker:
    """A model and the images that judge it, in one process (`pipelines.stages.parts.Maker`)."""

    def __init__(self, context: StageContext) -> None:
        self.settings, self.device = context.settings, pick_device()
        self.network = load_network(context.inputs["model"], self.device, self.settings.evaluate.precision)
        self.judge = InPrecision(self.network.network, "fp32")
        self.images, self.labels = labelled_images(context.inputs["data"], "test")
        self.context = context

    @cached_property
    def starts(self) -> Images:
        return held_out_starts(self.context)

    def clean(self, part: Part, batch_size: int) -> Made:
        """Logits of a part of the test images."""
        indices = np.arange(len(self.images))[_places(part, PART_IMAGES)]
        return {"logits": self._logits(self.images, indices, batch_size)}, []

    def ood(self, part: Part, subset: Indices, batch_size: int) -> Made:
        """Logits of a part of the OOD images, as they are and after they climbed each score."""
        settings, indices = self.settings.evaluate.ood, subset[_places(part, PART_IMAGES)]
        attack = partial(
            pgd,
            self.network,
            ball=make_ball("L2", settings.eps),
            step_size=settings.step_size,
            num_steps=settings.steps,
        )

        def climbed(objective: Objective, x: Tensor) -> Tensor:
            nobody = torch.zeros(len(x), dtype=torch.int64, device=x.device)  # no label is climbed
            return attack(x, nobody, objective=objective)

        logits = partial(self._logits, self.starts, indices, batch_size)
        return {
            "logits": logits(),
            "climbed_energy": logits(partial(climbed, marginal)),
            "climbed_confidence": logits(partial(climbed, confidence)),
        }, []

    def robust(self, part: Part, subset: Indices, budgets: Sequence[float], batch_size: int) -> Made:
        """What becomes of one batch of test images under PGD, within each budget, and under AutoAttack.

        Attacks run in the evaluation's precision, and fp32 decides what they broke.
        """
        settings, indices = self.settings.evaluate.robust, subset[_places(part, batch_size)]
        x, y = as_float(self.images.get(indices), self.device), to_device(self.labels[indices], self.device)
        seed = self.settings.data.seed
        holds = partial(
            holds_under_pgd,
            self.network,
            x,
            y,
            norm=settings.norm,
            seed=stream_seed(seed, f"evaluate/attack/{part.number}") % 2**31,
            judge=self.judge,
        )
        tensors = {
            "holds": torch.stack([holds(eps=eps, num_steps=settings.pgd_steps) for eps in budgets], dim=1),
            "stronger": holds(eps=settings.eps, num_steps=2 * settings.pgd_steps, restarts=2),
            "no_gradient": lacks_gradient(self.network, x, y),
            "difference": torch.tensor([order_difference(self.network, x)]),
        }
        if settings.attack == "autoattack":
            num_classes = self.network.spec.num_classes
            outcome = autoattack(
                self.network,
                x,
                y,
                norm=settings.norm,
                eps=settings.eps,
                num_classes=num_classes,
                seed=stream_seed(seed, "evaluate/attack") % 2**31,
                iterations=settings.iterations,
                judge=self.judge,
                batch_size=batch_size,
            )
            names = outcomes_of(num_classes)
            tensors["broken_by"] = torch.tensor([names.index(by) for by in outcome.broken_by])
            tensors["num_changed"] = torch.tensor([outcome.num_changed])
        return tensors, []

    @torch.no_grad()
    def _logits(
        self,
        images: Images,
        indices: Indices,
        batch_size: int,
        change: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> Tensor:
        """Of these images, each batch changed before."""
        starts = range(0, len(indices), batch_size)
        batches = (images.get(indices[start : start + batch_size]) for start in starts)
        return torch.cat([self.network(change(as_float(batch, self.device))).cpu() for batch in batches])


def _places(part: Part, num: int) -> slice:
    return slice(part.number * num, (part.number + 1) * num)
