"""Sampling from a model under a recipe's settings: held-out seeds, balanced labels, fixed batches."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from atjem.fidelity import FeatureMoments, Statistics, extract, frechet_distance
from atjem.sampling import quantize, sample_at
from data.images import Images, Indices
from data.rng import stream_seed
from data.sources.noise_names import KINDS
from pipelines.context import StageContext
from pipelines.stages.inputs import as_float, read_dataset, seed_images
from pipelines.stages.reference_stats import open_extractor

Reduce = Callable[[FeatureMoments], None]


class Sampler:
    """A model, its held-out seeds and the batching that makes a sample independent of its neighbours."""

    def __init__(self, context: StageContext, model: nn.Module, device: torch.device) -> None:
        settings = context.settings
        self.settings, self.report = settings.sample, context.report
        self.model, self.device = model, device
        self.num_classes = len(read_dataset(context.inputs["data"]).classes)
        self.seeds = {"final": self._seeds(context, held_out=True)}
        # Seeds of files are few: every choice before the figures is made on those of the training.
        self.seeds["selection"] = self._seeds(context, held_out=settings.data.ood in KINDS)
        self.order_seed = stream_seed(settings.seed, "sample/order")

    @staticmethod
    def _seeds(context: StageContext, *, held_out: bool) -> Images:
        settings = context.settings
        return seed_images(
            context.inputs["data"],
            settings.data.ood,
            held_out=held_out,
            seed=settings.seed,
            channels=settings.model.channels,
            image_size=settings.data.image_size,
        )

    @property
    def candidates(self) -> tuple[int, ...]:
        """Step counts to choose from, ascending; `sample.steps` alone when there are none."""
        return tuple(sorted(self.settings.step_candidates)) or (self.settings.steps,)

    def indices(self, purpose: str, num: int) -> Indices:
        """Final samples take their seeds from the front of a seeded order, choices from the back.

        Where both are noise, that keeps them apart; files come from different splits. With fewer seeds than
        samples, seeds are used again.
        """
        rng = np.random.Generator(np.random.Philox(key=[self.order_seed, 0]))
        order = rng.permutation(len(self.seeds[purpose]))
        return np.resize(order if purpose == "final" else order[::-1], num)

    def labels(self, num: int) -> Tensor:
        """0, 1, ... K-1, 0, ...: classes are balanced."""
        return torch.arange(num) % self.num_classes

    def batches(
        self, purpose: str, num: int, at: tuple[int, ...], *, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[Tensor, dict[int, Tensor]]]:
        """Seeds and 8-bit images at each step count, in batches of one fixed, padded size.

        With several ranks each makes every `world_size`-th batch.
        """
        size = self.settings.batch_size
        padded = -(-num // size) * size
        indices, labels = self.indices(purpose, padded), self.labels(padded)
        for start in range(rank * size, num, world_size * size):
            end = min(start + size, num)
            seeds = self.seeds[purpose].get(indices[start : start + size])
            images = sample_at(
                self.model,
                as_float(seeds, self.device),
                labels[start : start + size].to(self.device),
                step_size=self.settings.step_size,
                at=at,
                mode=self.settings.mode,
            )
            cut = {steps: quantize(x).cpu()[: end - start] for steps, x in images.items()}
            self.report.progress(end, num, f"{purpose} samples")
            yield seeds[: end - start], cut


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
    ) -> dict[int, float]:
        """`reduce` sums moments over ranks; each candidate's distance comes out the same on all of them."""
        moments = {steps: FeatureMoments() for steps in sampler.candidates}
        batches = sampler.batches("selection", num, sampler.candidates, rank=rank, world_size=world_size)
        for _, images in batches:
            for steps, pixels in images.items():
                moments[steps].add(extract(self.extractor, [pixels]).pooled)
        for own in moments.values():
            reduce(own)
        return {steps: frechet_distance(own.statistics(), self.statistics) for steps, own in moments.items()}
