"""Sampling from a model under a recipe's settings: held-out seeds, balanced labels, fixed batches."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atjem.fidelity import FeatureMoments, Statistics, extract, frechet_distance
from atjem.sampling import quantize, sample_at, sample_trajectory
from data.devices import to_device
from data.images import Images, by_shard
from data.rng import stream_seed
from data.sources.noise_names import KINDS
from pipelines.context import StageContext
from pipelines.stages.inputs import as_float, labelled_images, read_dataset, seed_images
from pipelines.stages.reference import open_extractor

Order = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
_EXTRACTED = 64  # images whose features are taken at once, to choose by
Reduce = Callable[[FeatureMoments], None]
Gather = Callable[[dict[int, float]], dict[int, float]]


class Seeds:
    """Where samples start: `final` ones, and those for the choices that are made before."""

    def __init__(self, context: StageContext, num_classes: int) -> None:
        # Seeds of files are few: every choice before the figures is made on those of the training.
        held_out = {"final": True, "selection": context.settings.data.ood in KINDS}
        self.images = {purpose: _open_seeds(context, held_out=own) for purpose, own in held_out.items()}
        self.num_classes = num_classes
        self.order_seed = stream_seed(context.settings.seed, "sample/order")
        # Of test images, which are both: so many are left to the choices, and half of them at most.
        self.reserved = (
            context.settings.sample.num_selection if context.settings.sample.seeds == "test" else 0
        )

    def order(self, purpose: str) -> Order:
        """Final samples take their seeds from the front of a seeded order, choices from the back.

        Where both are noise, or test images, that keeps them apart; files come from different splits.
        """
        rng = np.random.Generator(np.random.Philox(key=[self.order_seed, 0]))
        order = rng.permutation(len(self.images[purpose]))
        reserved = min(self.reserved, len(order) // 2)
        if purpose == "final":
            return order[: len(order) - reserved]
        return order[::-1][: reserved or None]

    def indices(self, purpose: str, num: int, padded: int | None = None) -> Order:
        """The seeds of `num` samples, whose labels take turns; `padded`: so many indices in all.

        With fewer seeds than samples, seeds are used again, each with every label before one comes twice.
        Where seeds are read from shards one after another, those of a shard follow each other.
        """
        order, sample = self.order(purpose)[:num], np.arange(padded or num)
        order = by_shard(order, self.images[purpose].shards)
        return order[(sample + sample // math.lcm(len(order), self.num_classes)) % len(order)]

    def num_starts(self, num: int, *, labelled: bool) -> int:
        """How many of `num` final samples start from a seed, or seed and label, of their own."""
        return min(num, len(self.order("final")) * (self.num_classes if labelled else 1))


def _open_seeds(context: StageContext, *, held_out: bool) -> Images:
    settings = context.settings
    if settings.sample.seeds == "test":
        return labelled_images(context.inputs["data"], "test")[0]
    return seed_images(
        context.inputs["data"],
        settings.data.ood,
        held_out=held_out,
        seed=settings.seed,
        channels=settings.model.channels,
        image_size=settings.data.image_size,
    )


class Sampler:
    """A network in eval mode, its seeds, and batches that make a sample independent of its neighbours."""

    def __init__(self, context: StageContext, network: nn.Module, device: torch.device) -> None:
        self.settings, self.report = context.settings.sample, context.report
        self.network, self.device = network, device
        self.num_classes = len(read_dataset(context.inputs["data"]).classes)
        self.seeds = Seeds(context, self.num_classes)
        self.ascent: dict[str, Any] = {"step_size": self.settings.step_size, "mode": self.settings.mode}

    @property
    def candidates(self) -> tuple[int, ...]:
        """Step counts to choose from, ascending; `sample.steps` alone when there are none."""
        return self.settings.step_candidates or (self.settings.steps,)

    def num_batches(self, num: int) -> int:
        return -(-num // self.settings.batch_size)

    def labels(self, num: int) -> Tensor:
        """0, 1, ... K-1, 0, ...: classes are balanced."""
        return torch.arange(num) % self.num_classes

    def batches(
        self, purpose: str, num: int, at: tuple[int, ...], numbers: Iterable[int]
    ) -> Iterator[tuple[Tensor, dict[int, Tensor]]]:
        """Seeds and 8-bit images at each step count, of the batches of these numbers.

        All batches have one size, so that no image depends on how many there are: the last is padded, and
        cut to the `num` images that are asked for. Raises ValueError for images of nan.
        """
        indices = self._padded(purpose, num)
        for number in numbers:
            seeds, x, labels = self._batch(purpose, indices, number)
            images = sample_at(self.network, x, labels, at=at, **self.ascent)
            end = min((number + 1) * len(seeds), num)
            wanted = end - number * len(seeds)
            cut = {steps: _pixels(x_t[:wanted], steps) for steps, x_t in images.items()}
            self.report.progress(end, num, f"{purpose} samples")
            yield seeds[:wanted], cut

    def trajectory(self, num: int, num_steps: int) -> Iterator[Tensor]:
        """The first `num` final samples, at most a batch, after 0, 1, ... `num_steps` steps: uint8."""
        seeds, x, labels = self._batch("final", self._padded("final", self.settings.num_samples), 0)
        yield seeds[:num]
        for x_t in sample_trajectory(self.network, x, labels, num_steps=num_steps, **self.ascent):
            yield quantize(x_t[:num]).cpu()

    def _padded(self, purpose: str, num: int) -> Order:
        return self.seeds.indices(purpose, num, self.num_batches(num) * self.settings.batch_size)

    def _batch(self, purpose: str, indices: Order, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Seeds as they are and as pixels on the device, and the labels to climb."""
        size = self.settings.batch_size
        places = slice(number * size, (number + 1) * size)
        seeds = self.seeds.images[purpose].get(indices[places])
        labels = self.labels(len(indices))[places]
        return seeds, as_float(seeds, self.device), to_device(labels, self.device)


def _pixels(x_t: Tensor, steps: int) -> Tensor:
    if not x_t.isfinite().all():
        raise ValueError(f"samples are nan after {steps} steps: the model has diverged")
    return quantize(x_t).cpu()


def features_at(extractor: nn.Module, images: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Pooled features (B, D) of the images at each step count, taken together: small batches cost more."""
    together = torch.cat(list(images.values())).split(_EXTRACTED)
    pooled = extract(extractor, together).pooled
    return dict(zip(images, pooled.split([len(own) for own in images.values()]), strict=True))


def best_steps(distances: Mapping[int, float]) -> int:
    """The step count with the least distance; of equals, the smallest."""
    return min(distances, key=lambda steps: (distances[steps], steps))


class FrechetCurve:
    """Fréchet distance at every candidate step count, all from the same trajectories."""

    def __init__(self, reference: Path, inception_weights: str | None, statistics: Statistics) -> None:
        self.extractor = open_extractor(reference, inception_weights)
        self.statistics = statistics

    def measure(
        self,
        sampler: Sampler,
        num: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        reduce: Reduce = lambda moments: None,
        gather: Gather = lambda own: own,
    ) -> dict[int, float]:
        """Ranks share the batches, neighbours each, and then the candidates, which take seconds each.

        `reduce` sums moments over ranks, `gather` puts their distances together. All get the same.
        """
        moments = {steps: FeatureMoments() for steps in sampler.candidates}
        bounds = [sampler.num_batches(num) * place // world_size for place in (rank, rank + 1)]
        for _, images in sampler.batches("selection", num, sampler.candidates, range(*bounds)):
            for steps, pooled in features_at(self.extractor, images).items():
                moments[steps].add(pooled)
        for own in moments.values():
            reduce(own)
        mine = [steps for place, steps in enumerate(moments) if place % world_size == rank]
        told = gather({s: frechet_distance(moments[s].statistics(), self.statistics) for s in mine})
        return {steps: told[steps] for steps in moments}
