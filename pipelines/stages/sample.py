"""Class-balanced samples from held-out seeds, as 8-bit WebDataset shards; the step count chosen before."""

import time
from typing import Any

import torch
from torch import Tensor

from atjem.checkpoint import load
from atjem.fidelity import Statistics
from data.decode import encode_png
from data.shards import Dataset, Encoded, write_manifest, write_split
from data.views import to_image
from pipelines.context import StageContext
from pipelines.stages.inputs import pick_device, read_dataset
from pipelines.stages.pictures import draw_frames, draw_grid
from pipelines.stages.reference_stats import read_reference
from pipelines.stages.sampler import FrechetCurve, Sampler, best_steps

GRID_FILE, TRAJECTORY_FILE = "figures/sample_grid.png", "figures/trajectory.png"
_SHARD_IMAGES = 10_000
_TRAJECTORIES, _FRAMES = 5, 7


def run(context: StageContext) -> dict[str, Any]:
    """Artifact: the shards `samples-*.tar` with their manifest, and a grid of seeds above their samples."""
    settings = context.settings.sample
    device = pick_device()
    sampler = Sampler(context, load(context.inputs["model"]).to(device), device)
    chosen, curve = settings.steps, {}
    if "reference" in context.inputs:
        curve = _distances(context, sampler)
        chosen = best_steps(curve)
    started = time.monotonic()
    pixels, seeds = _generate(sampler, settings.num_samples, chosen)
    seconds = time.monotonic() - started
    _write(context, sampler, pixels)
    draw_grid(seeds, pixels, sampler.num_classes, context.folder / GRID_FILE)
    draw_frames(_trajectory(sampler, chosen), context.folder / TRAJECTORY_FILE)
    metrics = {
        "sample_steps": chosen,
        "sample_seeds": min(settings.num_samples, len(sampler.seeds["final"])),
        "samples_per_second": settings.num_samples / seconds,
    }
    points = [{"step": steps, "selection_frechet_distance": value} for steps, value in curve.items()]
    return {"metrics": metrics, "points": points, "protocol": {"sample_steps": chosen}}


def _generate(sampler: Sampler, num: int, steps: int) -> tuple[Tensor, Tensor]:
    """All samples and their seeds, (num, C, H, W) uint8 each."""
    seeds, images = zip(*sampler.batches("final", num, (steps,)), strict=True)
    return torch.cat([image[steps] for image in images]), torch.cat(seeds)


def _distances(context: StageContext, sampler: Sampler) -> dict[int, float]:
    """The candidates' Fréchet distances, against the training images."""
    settings, reference = context.settings, context.inputs["reference"]
    statistics = Statistics.of(read_reference(reference))
    curve = FrechetCurve(reference, settings.evaluate.inception_weights, statistics)
    return curve.measure(sampler, settings.sample.num_selection)


def _trajectory(sampler: Sampler, chosen: int) -> list[Tensor]:
    """A few final samples on their way from seed to image: one (num, C, H, W) uint8 tensor a frame."""
    num = min(_TRAJECTORIES, sampler.num_classes)
    at = sorted({round(chosen * frame / (_FRAMES - 1)) for frame in range(_FRAMES)})
    _, images = next(sampler.batches("final", num, tuple(at)))
    return [images[steps] for steps in at]


def _write(context: StageContext, sampler: Sampler, pixels: Tensor) -> None:
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
    dataset = Dataset(pixels.shape[1], pixels.shape[2], classes, counts={"samples": len(rows)})
    dataset.sha256 = write_manifest(context.folder, rows)
    dataset.write(context.folder)
