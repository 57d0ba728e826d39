"""The model as a classifier: clean and robust accuracy, calibration, out-of-distribution detection."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atjem.attacks import pgd
from atjem.balls import make_ball
from atjem.calibration import (
    NUM_BINS,
    adaptive_calibration_error,
    expected_calibration_error,
    fit_temperature,
    reliability_bins,
)
from atjem.checkpoint import load
from atjem.energies import energy_from_logits
from atjem.models.registry import JointEnergyModel
from atjem.objectives import Objective, confidence, marginal
from atjem.scores import accuracy, auroc, fpr95
from data.images import Images
from data.rng import stream_seed
from data.shards import Dataset
from pipelines.context import StageContext
from pipelines.stages.inputs import as_float, labelled_images, pick_device, read_dataset, seed_images
from pipelines.stages.robust import Indices, measure_robustness
from pipelines.stages.tensors import ENERGIES_FILE, save_tensors

_BATCH = 250


def run(context: StageContext) -> dict[str, Any]:
    """Artifact: the metrics, in its manifest. Higher ood_auroc: real images have lower energy than seeds."""
    settings, device = context.settings, pick_device()
    model = load(context.inputs["model"]).to(device)
    images, labels = labelled_images(context.inputs["data"], "test")
    logits = _logits(model, images, np.arange(len(images)), device)
    seeds = seed_images(
        context.inputs["data"],
        settings.data.ood,
        held_out=True,
        seed=stream_seed(settings.data.seed, "evaluate/ood"),
        channels=settings.model.channels,
        image_size=settings.data.image_size,
    )
    tested = {"images.sha256": read_dataset(context.inputs["data"]).sha256, "images.num": len(labels)}
    calibrated = {"clean_accuracy": accuracy(logits, labels).item()}
    calibrated |= _calibration(settings.data.seed, logits, labels)
    told, energies = _out_of_distribution(context, model, seeds, logits, device)
    save_tensors(energies, context.folder / ENERGIES_FILE)
    robust = measure_robustness(context, model, images, labels, device)
    constants = {"data.seed": settings.data.seed, "bins": NUM_BINS}
    protocols = dict.fromkeys(calibrated, tested | constants)
    protocols |= {name: tested | _ood_protocol(context, seeds, name) for name in told}
    protocols |= {name: tested | protocol for name, protocol in robust.protocols.items()}
    points = [{"step": round(1000 * p["eps"]), "pgd_accuracy_by_eps": p["accuracy"]} for p in robust.curve]
    return {
        "metrics": {**calibrated, **told, **robust.metrics},
        "absent": robust.absent,
        "gate": [vars(check) for check in robust.checks],
        "points": points,
        "pgd_curve": robust.curve,
        "outcomes": _outcomes({"clean_accuracy": logits.argmax(dim=1) == labels, **robust.holds}),
        "protocols": protocols,
        "reliability": reliability_bins(logits, labels),
    }


def _outcomes(counted: dict[str, Tensor]) -> dict[str, str]:
    """By accuracy, a digit an image in the order of the test split or its subset: 1 where it is counted."""
    return {name: "".join(map(str, images.int().tolist())) for name, images in counted.items()}


def _ood_protocol(context: StageContext, seeds: Images, name: str) -> dict[str, Any]:
    """What one figure depends on: the attack only where seeds climb, seeds only where there are some."""
    settings, files = context.settings, context.inputs["data"] / "seeds"
    own = settings.evaluate.ood
    if name == "energy_real":
        return {}
    protocol: dict[str, Any] = {
        "ood": Dataset.read(files).sha256 if files.is_dir() else settings.data.ood,
        "ood.num": min(own.num_images, len(seeds)),
        "data.seed": settings.data.seed,
    }
    if "adversarial" in name:
        protocol["ood.attack"] = f"L2 {own.eps:g}, {own.steps} steps of {own.step_size:g}"
    return protocol


def _calibration(seed: int, logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The temperature is fitted on one half of the test images and judged by the other."""
    rng = np.random.Generator(np.random.Philox(key=[stream_seed(seed, "evaluate/temperature"), 0]))
    fitted, judged = np.array_split(rng.permutation(len(labels)), 2)
    temperature = fit_temperature(logits[fitted], labels[fitted])
    return {
        "ece": expected_calibration_error(logits, labels).item(),
        "adaptive_ece": adaptive_calibration_error(logits, labels).item(),
        "temperature": temperature,
        "tempered_ece": expected_calibration_error(logits[judged] / temperature, labels[judged]).item(),
    }


def _out_of_distribution(
    context: StageContext, model: JointEnergyModel, seeds: Images, logits: Tensor, device: torch.device
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """How well images are told from seeds, as they are and made to look like images within a ball.

    Each score is attacked by climbing itself (Augustin et al. 2020). Returns figures, and the energies of
    images, seeds and seeds that climbed the energy's score.
    """
    settings, seed = context.settings.evaluate.ood, context.settings.data.seed
    rng = np.random.Generator(np.random.Philox(key=[stream_seed(seed, "evaluate/ood/subset"), 0]))
    subset = np.sort(rng.permutation(len(seeds))[: settings.num_images])
    attack = partial(
        pgd, model, ball=make_ball("L2", settings.eps), step_size=settings.step_size, num_steps=settings.steps
    )
    clean, metrics = _logits(model, seeds, subset, device), {}
    for suffix, score, objective in (("", _negative_energy, marginal), ("_softmax", _confidence, confidence)):
        adversarial = _logits(model, seeds, subset, device, partial(_climbed, attack, objective))
        real, told = score(logits), score(clean)
        metrics[f"ood_auroc{suffix}"] = auroc(real, told).item()
        metrics[f"ood_fpr95{suffix}"] = fpr95(real, told).item()
        metrics[f"ood_auroc_adversarial{suffix}"] = auroc(real, score(adversarial)).item()
        if score is _negative_energy:
            climbed = energy_from_logits(adversarial)
    energies = {
        "real": energy_from_logits(logits),
        "ood": energy_from_logits(clean),
        "ood_adversarial": climbed,
    }
    means = {f"energy_{name}": energy.double().mean().item() for name, energy in energies.items()}
    return metrics | means, energies


def _climbed(attack: Callable[..., Tensor], objective: Objective, x: Tensor) -> Tensor:
    nobody = torch.zeros(len(x), dtype=torch.int64, device=x.device)  # no label is climbed
    return attack(x, nobody, objective=objective)


@torch.no_grad()
def _logits(
    model: JointEnergyModel,
    images: Images,
    indices: Indices,
    device: torch.device,
    change: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """Of these images, each batch changed before."""
    batches = (indices[start : start + _BATCH] for start in range(0, len(indices), _BATCH))
    return torch.cat([model(change(as_float(images.get(batch), device))).cpu() for batch in batches])


def _negative_energy(logits: Tensor) -> Tensor:
    return -energy_from_logits(logits)


def _confidence(logits: Tensor) -> Tensor:
    return logits.softmax(dim=1).amax(dim=1)
