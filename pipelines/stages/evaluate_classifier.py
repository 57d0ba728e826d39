"""The model as a classifier: clean and robust accuracy, calibration, out-of-distribution detection."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from atjem.calibration import expected_calibration_error, reliability_bins
from atjem.checkpoint import load
from atjem.energies import energy_from_logits
from atjem.models.registry import JointEnergyModel
from atjem.robustness import attacks_of, autoattack_accuracy, pgd_accuracy
from atjem.scores import accuracy, auroc
from data.images import Images
from data.rng import stream_seed
from pipelines.context import StageContext
from pipelines.stages.inputs import as_float, labelled_images, pick_device, seed_images

_BATCH = 250


def run(context: StageContext) -> dict[str, Any]:
    """Artifact: the metrics, in its manifest. Higher ood_auroc: real images have lower energy than seeds."""
    settings, device = context.settings, pick_device()
    model = load(context.inputs["model"]).to(device)
    images, labels = labelled_images(context.inputs["data"], "test")
    logits = _logits(model, images, len(images), device)
    seeds = seed_images(
        context.inputs["data"],
        settings.data.ood,
        held_out=True,
        seed=stream_seed(settings.seed, "evaluate/ood"),
        channels=settings.model.channels,
        image_size=settings.data.image_size,
    )
    ood_logits = _logits(model, seeds, min(settings.evaluate.ood.num_images, len(seeds)), device)
    metrics = {
        "clean_accuracy": accuracy(logits, labels).item(),
        "ece": expected_calibration_error(logits, labels).item(),
        "ood_auroc": auroc(-energy_from_logits(logits), -energy_from_logits(ood_logits)).item(),
        "ood_auroc_softmax": auroc(_confidence(logits), _confidence(ood_logits)).item(),
    }
    robust, absent = _robust(context, model, images, labels, device)
    protocol = {
        **settings.evaluate.robust.model_dump(),
        "attacks": attacks_of(model.spec.num_classes),
        "num_images": robust["robust_num_images"],
    }
    return {
        "metrics": {**metrics, **robust},
        "absent": absent,
        "protocol": protocol,
        "reliability": reliability_bins(logits, labels),
    }


def _robust(
    context: StageContext, model: JointEnergyModel, images: Images, labels: Tensor, device: torch.device
) -> tuple[dict[str, float], dict[str, str]]:
    """On one seeded subset of the test images, the same for every model."""
    settings = context.settings.evaluate.robust
    subset = _subset(len(images), settings.num_images, context.settings.seed)
    x, y = as_float(images.get(subset), device), labels[subset].to(device)
    attack_seed = stream_seed(context.settings.seed, "evaluate/attack") % 2**31
    metrics = {
        "robust_num_images": len(subset),
        "pgd_accuracy": pgd_accuracy(
            model,
            x,
            y,
            norm=settings.norm,
            eps=settings.eps,
            num_steps=settings.pgd_steps,
            seed=attack_seed,
        ),
    }
    if settings.attack != "autoattack":
        return metrics, {"robust_accuracy": "evaluate.robust.attack is 'pgd'"}
    context.report.progress(0, len(subset), "images under AutoAttack")
    metrics["robust_accuracy"] = autoattack_accuracy(
        model,
        x,
        y,
        norm=settings.norm,
        eps=settings.eps,
        num_classes=model.spec.num_classes,
        seed=attack_seed,
        iterations=settings.iterations,
    )
    context.report.progress(len(subset), len(subset), "images under AutoAttack")
    return metrics, {}


def _subset(num_images: int, wanted: int, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    rng = np.random.Generator(np.random.Philox(key=[stream_seed(seed, "evaluate/subset"), 0]))
    return rng.permutation(num_images)[:wanted]


@torch.no_grad()
def _logits(model: JointEnergyModel, images: Images, num: int, device: torch.device) -> Tensor:
    batches = (range(start, min(start + _BATCH, num)) for start in range(0, num, _BATCH))
    return torch.cat([model(as_float(images.get(batch), device)).cpu() for batch in batches])


def _confidence(logits: Tensor) -> Tensor:
    return logits.softmax(dim=1).amax(dim=1)
