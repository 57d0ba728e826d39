"""`--smoke`: the recipe's graph, model and image size on a handful of images and steps.

What comes out is no result: fingerprints are salted, metrics prefixed, the runs in their own experiment.
"""

from typing import Any

from data.sources.base import SourceError
from data.sources.named import NAMED, PHOTOGRAPHS, open_source
from data.sources.noise_names import KINDS
from pipelines.files import path_exists
from pipelines.settings import Settings, Stage

SUFFIX = "-smoke"  # of the experiment's name
_STEPS, _ATTACK_STEPS, _IMAGES, _BATCH = 2, 2, 12, 2
_WORKERS = 8  # at most: the photographs are few
_CLASSES = 10  # of photographs that stand in for a folder of unknown classes


def smoke_settings(settings: Settings, available: dict[str, float]) -> Settings:
    """The recipe's settings with everything that costs time made small, and stand-ins for what is missing.

    available: 'CPU' and 'GPU' counts; workers that do not fit become one worker on the CPUs.
    """
    compute = _compute(settings, available)
    batch_size = _BATCH * compute["num_workers"]
    images = max(_IMAGES, batch_size)
    changed: Settings = _changed(
        settings,
        data=_data(settings) | {"max_images": images},
        model={"checkpoint": _present(settings.model.checkpoint)},
        stage1=_stage(settings.stage1, batch_size),
        stage2=_stage(settings.stage2, batch_size)
        | {
            "contrastive": {
                "start_steps": min(settings.stage2.contrastive.start_steps, 1),
                "max_steps": min(settings.stage2.contrastive.max_steps, _ATTACK_STEPS),
                "auc_window_images": batch_size,
            },
            "until": settings.stage2.until and min(settings.stage2.until, _STEPS),
            "select_every": _STEPS,
            "select_samples": min(settings.stage2.select_samples, _IMAGES),
        },
        sample={
            "num_samples": min(settings.sample.num_samples, _IMAGES),
            "num_selection": min(settings.sample.num_selection, _IMAGES),
            "steps": min(settings.sample.steps, _ATTACK_STEPS),
            "step_candidates": tuple(range(1, _ATTACK_STEPS + 1)) if settings.sample.step_candidates else (),
            "batch_size": min(settings.sample.batch_size, _IMAGES),
        },
        evaluate={
            "feature_extractor": _extractor(settings),
            "extractor_steps": 0,
            "precision": settings.evaluate.precision if compute.get("gpus_per_worker", 1) else "fp32",
            "inception_weights": None,
            "reference_statistics": None,
            "robust": {"num_images": _BATCH, "iterations": _ATTACK_STEPS, "pgd_steps": _ATTACK_STEPS},
            "ood": {"num_images": _IMAGES, "steps": _ATTACK_STEPS},
            "counterfactual": {"num_images": _IMAGES, "steps": _ATTACK_STEPS},
        },
        compute=compute,
        published=None,
    )
    return changed


def _data(settings: Settings) -> dict[str, Any]:
    """The configured images where they are present, else photographs; a handful of either."""
    named = NAMED.get(settings.data.in_)
    num_classes = named.num_classes if named and named.num_classes else _CLASSES
    stand_ins = {"in_": f"{PHOTOGRAPHS}-{num_classes}", "ood": f"{PHOTOGRAPHS}-{_CLASSES}"}
    missing = {field: name for field, name in stand_ins.items() if not _is_there(settings, field)}
    return missing


def _is_there(settings: Settings, field: str) -> bool:
    name = getattr(settings.data, field)
    if name in KINDS:
        return True
    try:
        open_source(name, settings.data.root)
    except (SourceError, OSError, RuntimeError):
        return False
    return True


def _present(path: str | None) -> str | None:
    return path if path is not None and path_exists(path) else None


def _stage(stage: Stage, batch_size: int) -> dict[str, Any]:
    """A stage of no steps keeps none: it publishes imported weights as they are.

    Gradients are clipped, since stage 2 cannot rely on the trained weights that it is made for.
    """
    return {
        "steps": min(stage.steps, _STEPS),
        "batch_size": batch_size,
        "accumulate": 1,
        "checkpoint_every": _STEPS,
        "optimizer": {"warmup_steps": min(stage.optimizer.warmup_steps, 1), "clip_norm": 1.0},
        "classifier_attack": {"steps": min(stage.classifier_attack.steps, _ATTACK_STEPS)},
    }


def _extractor(settings: Settings) -> str:
    """A classifier that is not trained, or, for Inception, a small random network: both seeded."""
    return "classifier" if settings.evaluate.feature_extractor == "classifier" else "random"


def _compute(settings: Settings, available: dict[str, float]) -> dict[str, Any]:
    own = settings.compute
    asked = {"CPU": own.num_workers * own.cpus_per_worker, "GPU": own.num_workers * own.gpus_per_worker}
    if all(amount <= available.get(kind, 0) for kind, amount in asked.items()):
        return {"num_workers": min(own.num_workers, _WORKERS), "log_every": 1}
    cpus = max(1, int(available.get("CPU", 1)))
    return {
        "num_workers": 1,
        "cpus_per_worker": cpus,
        "gpus_per_worker": 0,
        "precision": "fp32",
        "log_every": 1,
    }


def _changed(section: Any, **changes: Any) -> Any:
    """A copy with other values, unchecked: smoke may set what a recipe may not."""
    nested = {
        name: _changed(getattr(section, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return section.model_copy(update=nested)
