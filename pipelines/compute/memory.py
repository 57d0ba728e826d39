"""How much memory a recipe's training takes, estimated from its network's footprint without torch."""

from typing import Any

from atjem.models.footprint import footprint, training_bytes
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


def stage_bytes(settings: Settings) -> dict[str, float]:
    """The most that one worker holds while it trains, for each stage that has steps."""
    stages = {"stage1": (settings.stage1, "at"), "stage2": (settings.stage2, settings.stage2.objective)}
    return {
        name: _bytes(settings, stage, objective, recompute=recomputes(settings, name))
        for name, (stage, objective) in stages.items()
        if stage.steps
    }


def recomputes(settings: Settings, stage: str) -> bool:
    """Whether activation checkpointing is on and helps: BatchNorm that gathers statistics forbids it."""
    gathers = stage == "stage1" and parse_convnext(settings.model.arch) is None
    return settings.compute.activation_checkpointing and not gathers


def weight(settings: Settings) -> str:
    """One line: parameters, work and memory."""
    own = footprint(settings.model.arch, **_shape(settings))
    needs = ", ".join(
        f"stage {name[-1]} about {max(needed / 1e9, 0.1):.1f} GB"
        for name, needed in stage_bytes(settings).items()
    )
    line = f"{settings.model.arch}: {own.parameters / 1e6:.3g} M parameters, "
    line += f"{own.flops / 1e9:.3g} GFLOP an image and pass"
    return f"{line}; memory of a training worker: {needs}" if needs else line


def _bytes(settings: Settings, stage: Stage, objective: str, *, recompute: bool) -> float:
    attacked, updated = _IMAGES[objective]
    images = stage.batch_size // (settings.compute.num_workers * stage.accumulate)
    return training_bytes(
        settings.model.arch,
        **_shape(settings),
        attacked=attacked * images,
        updated=updated * images,
        moments=_MOMENTS[stage.optimizer.name],
        recompute=recompute,
    )


def _shape(settings: Settings) -> dict[str, Any]:
    named = NAMED.get(settings.data.in_)
    return {
        "num_classes": (named.num_classes if named else None) or _UNKNOWN_CLASSES,
        "channels": settings.model.channels,
        "image_size": settings.data.image_size,
        "precision": settings.compute.precision,
    }
