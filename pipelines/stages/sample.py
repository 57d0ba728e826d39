"""Class-balanced samples from held-out seeds, as 8-bit WebDataset shards with their features."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from atjem.fidelity import FeatureMoments, frechet_distance
from data.images import ShardImages
from data.shards import MANIFEST_FILE, Dataset, ManifestWriter
from pipelines.context import StageContext
from pipelines.files import read_json
from pipelines.stages.inputs import read_dataset
from pipelines.stages.parts import Part, Parts
from pipelines.stages.pictures import draw_frames, draw_grid, draw_movie, grid_places
from pipelines.stages.reference import read_protocol, read_reference
from pipelines.stages.sample_parts import CLOCK, SHARD, Layout, SampleMaker, read_rows, shard_name
from pipelines.stages.sampler import Seeds, best_steps
from pipelines.stages.tensors import read_tensors

GRID_FILE, TRAJECTORY_FILE = "figures/sample_grid.png", "figures/trajectory.png"
MOVIE_FILE = "figures/trajectory.gif"
_FRAMES = 7  # of a trajectory's strip


def run(context: StageContext) -> dict[str, Any]:
    """Artifact: shards `samples-*.tar` with their manifest, features and energies beside each; pictures."""
    settings = context.settings.sample
    parts = Parts(context, SampleMaker)
    seeds = Seeds(context, len(read_dataset(context.inputs["data"]).classes))
    curve = _curve(context, parts) if settings.step_candidates else {}
    chosen = best_steps(curve) if curve else settings.steps
    layout = Layout(settings.num_samples, settings.batch_size)
    made = parts.make(SampleMaker.final, layout.num_parts, "parts of the samples", layout, chosen)
    _assemble(context, made)
    _draw(context, parts, seeds, chosen)
    energies = read_tensors((part.tensors for part in made), "energy")
    clocks = [read_json(part.beside(CLOCK)) or {} for part in made]
    num_workers = context.settings.compute.num_workers
    metrics = {
        "sample_steps": chosen,
        "sample_seeds": min(settings.num_samples, len(seeds.order("final"))),
        "sample_energy": energies["energy"].double().mean().item(),
        "samples_per_second": layout.num_made * num_workers / sum(clock["seconds"] for clock in clocks),
    }
    starts = seeds.num_starts(settings.num_samples, labelled=settings.mode == "joint")
    if starts < settings.num_samples:
        metrics["repeated_samples"] = settings.num_samples - starts
    protocol = _protocol(context, seeds)
    protocols = dict.fromkeys(metrics, protocol)
    machine = {
        "machine.device": ", ".join(sorted({clock["device"] for clock in clocks})),
        "machine.num_workers": num_workers,
        "machine.batch_size": settings.batch_size,
    }
    protocols["samples_per_second"] = protocol | machine
    points = [{"step": steps, "selection_frechet_distance": value} for steps, value in curve.items()]
    return {"metrics": metrics, "points": points, "protocols": protocols, "sampler": protocol}


def _curve(context: StageContext, parts: Parts) -> dict[int, float]:
    """The candidates' Fréchet distances from the reference, in one trajectory for each selection sample."""
    settings = context.settings.sample
    layout = Layout(settings.num_selection, settings.batch_size)
    moments: dict[int, FeatureMoments] = {}
    for part in parts.make(SampleMaker.selection, layout.num_parts, "parts to choose the steps by", layout):
        for steps, pooled in load_file(part.tensors).items():
            moments.setdefault(int(steps), FeatureMoments()).add(pooled)
    reference = read_reference(context.inputs["reference"]).statistics
    return {steps: frechet_distance(own.statistics(), reference) for steps, own in sorted(moments.items())}


def _assemble(context: StageContext, parts: Sequence[Part]) -> None:
    """The parts' files under the artifact's names: they stay where they are too, until it is published."""
    first = read_rows(parts[0])
    with (context.folder / MANIFEST_FILE).open("wb") as file:
        manifest = ManifestWriter(file)
        for part in parts:
            manifest.add(read_rows(part))
            shard = context.folder / shard_name(part.number)
            _link(part.beside(SHARD), shard)
            _link(part.tensors, shard.with_suffix(".safetensors"))
        sha256 = manifest.close()
    data = read_dataset(context.inputs["data"])
    counts = {"samples": context.settings.sample.num_samples}
    size = first["width"][0].as_py()
    Dataset(data.channels, size, data.classes, counts=counts, sha256=sha256).write(context.folder)


def _link(made: Path, wanted: Path) -> None:
    try:
        os.link(made, wanted)
    except OSError:  # another file system, or one without links
        shutil.copy2(made, wanted)


def _draw(context: StageContext, parts: Parts, seeds: Seeds, chosen: int) -> None:
    settings = context.settings.sample
    samples = ShardImages(context.folder, "samples")  # decodes only what is shown
    indices = seeds.indices("final", settings.num_samples)
    rows = grid_places(settings.num_samples, seeds.num_classes)
    pairs = [(seeds.images["final"].get(indices[row]), samples.get(row)) for row in rows]
    draw_grid(pairs, context.folder / GRID_FILE)
    if settings.frames:
        num = min(settings.frames, settings.batch_size)
        (part,) = parts.make(SampleMaker.frames, 1, "trajectories", num, chosen)
        frames = load_file(part.tensors)["frames"]
        strip = sorted({round(chosen * frame / (_FRAMES - 1)) for frame in range(_FRAMES)})
        draw_frames([frames[steps] for steps in strip], context.folder / TRAJECTORY_FILE)
        draw_movie(list(frames), context.folder / MOVIE_FILE)


def _protocol(context: StageContext, seeds: Seeds) -> dict[str, Any]:
    """What samples depend on beside the model and the run's seed."""
    settings, files = context.settings.sample, context.inputs["data"] / "seeds"
    protocol: dict[str, Any] = {
        "num_samples": settings.num_samples,
        "quantisation": "rounded to 8 bits",
        "precision": context.settings.evaluate.precision,
        "sampler.step_size": settings.step_size,
        "sampler.steps": list(settings.step_candidates) or settings.steps,
        "sampler.mode": settings.mode,
        "sampler.seeds": context.settings.data.ood,
        "sampler.num_seeds": len(seeds.order("final")),
    }
    if settings.seeds == "test":
        protocol["sampler.seeds"] = f"test images of {read_dataset(context.inputs['data']).sha256}"
    elif files.is_dir():
        protocol["sampler.seeds"] = Dataset.read(files).sha256
    if settings.step_candidates:
        reference = read_protocol(context.inputs["reference"])
        protocol["sampler.num_selection"] = settings.num_selection
        protocol["sampler.chosen_by"] = reference["reference.sha256"]
    return protocol
