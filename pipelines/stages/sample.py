"""Class-balanced samples from held-out seeds, as 8-bit WebDataset shards; the step count chosen before."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atjem.checkpoint import load
from atjem.fidelity import Features, Statistics, extract, frechet_distance
from atjem.models.registry import JointEnergyModel
from atjem.sampling import quantize, sample_at
from data.decode import encode_png
from data.images import Images, Indices
from data.rng import stream_seed
from data.shards import Dataset, Encoded, write_manifest, write_split
from pipelines.context import StageContext
from pipelines.stages.inputs import as_float, pick_device, read_dataset, seed_images
from pipelines.stages.pictures import draw_frames, draw_grid, to_image
from pipelines.stages.reference_stats import open_extractor, read_reference

GRID_FILE, TRAJECTORY_FILE = "figures/sample_grid.png", "figures/trajectory.png"
_SHARD_IMAGES = 10_000
_TRAJECTORIES, _FRAMES = 5, 7


def run(context: StageContext) -> dict[str, Any]:
    """Artifact: the shards `samples-*.tar` with their manifest, and a grid of seeds above their samples."""
    settings = context.settings.sample
    sampler = _Sampler(context)
    chosen, curve = settings.steps, {}
    if "reference" in context.inputs:
        curve = _distances(context, sampler)
        chosen = min(curve, key=lambda steps: (curve[steps], steps))
    started = time.monotonic()
    pixels, seeds = sampler.generate("final", settings.num_samples, chosen)
    seconds = time.monotonic() - started
    _write(context, sampler, pixels)
    draw_grid(seeds, pixels, sampler.num_classes, context.folder / GRID_FILE)
    draw_frames(_trajectory(sampler, chosen), context.folder / TRAJECTORY_FILE)
    metrics = {"sample_steps": chosen, "samples_per_second": settings.num_samples / seconds}
    points = [{"step": steps, "selection_frechet_distance": value} for steps, value in curve.items()]
    return {"metrics": metrics, "points": points, "protocol": {"sample_steps": chosen}}


class _Sampler:
    """The model, its held-out seeds and the batching that makes a sample independent of its neighbours."""

    def __init__(self, context: StageContext) -> None:
        settings = context.settings
        self.settings, self.report = settings.sample, context.report
        self.device = pick_device()
        self.model: JointEnergyModel = load(context.inputs["model"]).to(self.device)
        self.num_classes = len(read_dataset(context.inputs["data"]).classes)
        self.seeds: Images = seed_images(
            context.inputs["data"],
            settings.data.ood,
            held_out=True,
            seed=settings.seed,
            channels=settings.model.channels,
            image_size=settings.data.image_size,
        )
        rng = np.random.Generator(np.random.Philox(key=[stream_seed(settings.seed, "sample/order"), 0]))
        self.order = rng.permutation(len(self.seeds))

    def indices(self, purpose: str, num: int) -> Indices:
        """Final samples take held-out seeds from the front, the choice of steps from the back.

        They are disjoint as long as there are seeds enough; with fewer, seeds are used again.
        """
        order = self.order if purpose == "final" else self.order[::-1]
        return np.resize(order, num)

    def labels(self, num: int) -> Tensor:
        """0, 1, ... K-1, 0, ...: classes are balanced."""
        return torch.arange(num) % self.num_classes

    def batches(
        self, purpose: str, num: int, at: tuple[int, ...]
    ) -> Iterator[tuple[Tensor, dict[int, Tensor]]]:
        """Seeds and 8-bit images at each step count, in batches of one fixed, padded size."""
        size = self.settings.batch_size
        padded = -(-num // size) * size
        indices, labels = self.indices(purpose, padded), self.labels(padded)
        for start in range(0, num, size):
            end = min(start + size, num)
            seeds = self.seeds.get(indices[start : start + size])
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

    def generate(self, purpose: str, num: int, steps: int) -> tuple[Tensor, Tensor]:
        """All samples and their seeds, (num, C, H, W) uint8 each."""
        seeds, images = zip(*self.batches(purpose, num, (steps,)), strict=True)
        return torch.cat([image[steps] for image in images]), torch.cat(seeds)


def _distances(context: StageContext, sampler: _Sampler) -> dict[int, float]:
    """Fréchet distance at every candidate step count, all from the same trajectories."""
    settings = context.settings
    candidates = tuple(sorted(settings.sample.step_candidates))
    reference = Statistics.of(read_reference(context.inputs["reference"]))
    extractor = open_extractor(context.inputs["reference"], settings.evaluate.inception_weights)
    parts: dict[int, list[Features]] = {steps: [] for steps in candidates}
    for _, images in sampler.batches("selection", settings.sample.num_selection, candidates):
        for steps, pixels in images.items():
            parts[steps].append(extract(extractor, [pixels]))
    return {
        steps: frechet_distance(Statistics.of(Features.cat(features)), reference)
        for steps, features in parts.items()
    }


def _trajectory(sampler: _Sampler, chosen: int) -> list[Tensor]:
    """A few final samples on their way from seed to image: one (num, C, H, W) uint8 tensor a frame."""
    num = min(_TRAJECTORIES, sampler.num_classes)
    at = sorted({round(chosen * frame / (_FRAMES - 1)) for frame in range(_FRAMES)})
    _, images = next(sampler.batches("final", num, tuple(at)))
    return [images[steps] for steps in at]


def _write(context: StageContext, sampler: _Sampler, pixels: Tensor) -> None:
    classes = read_dataset(context.inputs["data"]).classes
    labels = sampler.labels(len(pixels)).tolist()
    encoded = (
        Encoded(
            key=f"samples-{index:08d}",
            payload=encode_png(to_image(image)),
            label=label,
            class_name=classes[label],
            split="samples",
            width=image.shape[2],
            height=image.shape[1],
            source="",
        )
        for index, (image, label) in enumerate(zip(pixels, labels, strict=True))
    )
    rows = write_split(context.folder, "samples", encoded, _SHARD_IMAGES)
    dataset = Dataset(pixels.shape[1], pixels.shape[2], classes, {"samples": len(rows)})
    dataset.sha256 = write_manifest(context.folder, rows)
    dataset.write(context.folder)
