"""How much memory a recipe's stages take, estimated from its network's footprint without torch."""

from dataclasses import dataclass
from typing import Any

from atjem.models.footprint import evaluation_bytes, footprint, training_bytes
from atjem.models.names import parse_convnext
from data.sources.named import NAMED
from pipelines.settings import Settings, Stage

_UNKNOWN_CLASSES = 1000  # of a folder that has not been read: the last layer is small beside the rest
_IMAGES = {
    "dat": (2, 3),
    "at": (1, 1),
    "jem": (1, 2),
}  # attacked and updated for each image of a batch
_MOMENTS = {"sgd": 1, "adamw": 2}
_INCEPTION = 2.7e9  # its weights, and 250 images at 299 pixels: counted on tensors without values


@dataclass(frozen=True)
class Need:
    """The most bytes that a worker takes at a time; for what, by which setting, and what would lower it."""

    bytes: float
    setting: str
    given: str
    ways_out: str


def needs(settings: Settings) -> list[Need]:
    """Of training, for each stage that has steps, and of evaluation."""
    return [*_of_training(settings), *_of_evaluation(settings)]


def _of_training(settings: Settings) -> list[Need]:
    compute, found = settings.compute, []
    for name, needed in stage_bytes(settings).items():
        given = f"{getattr(settings, name).batch_size} over {compute.num_workers} "
        given += f"worker{'s' * (compute.num_workers > 1)}"
        ways_out = f"use a smaller batch or raise {name}.accumulate"
        if name == "stage2" and not compute.activation_checkpointing:
            ways_out += ", or set compute.activation_checkpointing=true"
        found.append(Need(needed, f"{name}.batch_size", given, ways_out))
    return found


def _of_evaluation(settings: Settings) -> list[Need]:
    """Sampling's batch is part of its result; the others take what fits, one image at least."""
    evaluate, sample = settings.evaluate, settings.sample
    extractor = _INCEPTION if evaluate.feature_extractor == "inception" else 0
    extracting = _evaluation_bytes(settings, 0) + extractor  # before or after images are differentiated
    lower = "" if evaluate.precision == "bf16" else ", or set evaluate.precision=bf16"
    images = evaluate.batch_size or 1
    return [
        Need(
            max(_evaluation_bytes(settings, sample.batch_size), extracting),
            "sample.batch_size",
            f"{sample.batch_size} images that ascend together",
            f"use a smaller batch{lower}",
        ),
        Need(
            max(_evaluation_bytes(settings, images), extracting),
            "evaluate.batch_size",
            f"{images} image{'s' * (images > 1)} at a time",
            f"leave it out to take what fits{lower}" if evaluate.batch_size else f"use more memory{lower}",
        ),
    ]


def _evaluation_bytes(settings: Settings, images: int) -> float:
    shape = _shape(settings) | {"precision": settings.evaluate.precision}
    return evaluation_bytes(settings.model.arch, **shape, images=images)


def stage_bytes(settings: Settings) -> dict[str, float]:
    """The most that one worker holds while it trains, for each stage that has steps."""
    stages = {"stage1": settings.stage1, "stage2": settings.stage2}
    return {
        name: _stage_bytes(settings, name, settings.compute.num_workers)
        for name, stage in stages.items()
        if stage.steps
    }


def recomputes(settings: Settings, stage: str) -> bool:
    """Whether activation checkpointing is on and helps: BatchNorm that gathers statistics forbids it."""
    return settings.compute.activation_checkpointing and not _gathers_statistics(settings, stage)


def may_split(settings: Settings, stage: str) -> bool:
    """Whether smaller micro-batches leave the result as it is, but for rounding.

    BatchNorm's statistics and JEM's random numbers belong to micro-batches.
    """
    is_jem = stage == "stage2" and settings.stage2.objective == "jem"
    return not (is_jem or _gathers_statistics(settings, stage))


def least_workers(settings: Settings, stage: str, memory: float) -> int:
    """The fewest workers that a training can go on with, each with `memory` bytes.

    Where micro-batches must stay as they are, fewer workers hold more images each.
    """
    compute = settings.compute
    least = compute.min_workers
    if not may_split(settings, stage):
        while least < compute.num_workers and _stage_bytes(settings, stage, least) > memory:
            least += 1
    return least


def _gathers_statistics(settings: Settings, stage: str) -> bool:
    frozen = stage == "stage2" and settings.stage2.freeze_norm
    return not frozen and parse_convnext(settings.model.arch) is None


def weight(settings: Settings) -> str:
    """One line: parameters, work and memory."""
    own = footprint(settings.model.arch, **_shape(settings))
    found = {f"stage {name[-1]}": needed for name, needed in stage_bytes(settings).items()}
    found["evaluation"] = max(need.bytes for need in _of_evaluation(settings))
    told = ", ".join(f"{name} about {max(needed / 1e9, 0.1):.1f} GB" for name, needed in found.items())
    line = f"{settings.model.arch}: {own.parameters / 1e6:.3g} M parameters, "
    line += f"{own.flops / 1e9:.3g} GFLOP an image and pass"
    return f"{line}; memory of a worker: {told}"


def _stage_bytes(settings: Settings, name: str, num_workers: int) -> float:
    stage: Stage = getattr(settings, name)
    attacked, updated = _IMAGES["at" if name == "stage1" else settings.stage2.objective]
    images = -(-stage.batch_size // (num_workers * stage.accumulate))
    return training_bytes(
        settings.model.arch,
        **_shape(settings),
        attacked=attacked * images,
        updated=updated * images,
        moments=_MOMENTS[stage.optimizer.name],
        recompute=recomputes(settings, name),
        compiled=settings.compute.compile,
        several=num_workers > 1,
    )


def _shape(settings: Settings) -> dict[str, Any]:
    named = NAMED.get(settings.data.in_)
    return {
        "num_classes": (named.num_classes if named else None) or _UNKNOWN_CLASSES,
        "channels": settings.model.channels,
        "image_size": settings.data.image_size,
        "precision": settings.compute.precision,
    }
