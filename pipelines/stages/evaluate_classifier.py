"""The model as a classifier: clean and robust accuracy, calibration, out-of-distribution detection."""

from typing import Any

import numpy as np
from torch import Tensor

from atjem.calibration import (
    NUM_BINS,
    adaptive_calibration_error,
    expected_calibration_error,
    fit_temperature,
    reliability_bins,
)
from atjem.energies import energy_from_logits
from atjem.scores import accuracy, auroc, fpr95
from data.rng import stream_seed
from data.shards import Dataset
from pipelines.context import StageContext
from pipelines.stages.classifier_parts import PART_IMAGES, ClassifierMaker, held_out_starts
from pipelines.stages.inputs import batch_size, labelled_images, read_dataset
from pipelines.stages.parts import Parts
from pipelines.stages.robust import measure_robustness
from pipelines.stages.tensors import ENERGIES_FILE, read_tensors, save_tensors

_BATCH = 250


def run(context: StageContext) -> dict[str, Any]:
    """Artifact: the metrics, in its manifest. Higher ood_auroc: real images have lower energy than seeds."""
    settings, dataset = context.settings, read_dataset(context.inputs["data"])
    parts, batch = Parts(context, ClassifierMaker), batch_size(context, _BATCH)
    _, labels = labelled_images(context.inputs["data"], "test")
    made = parts.make(
        ClassifierMaker.clean, -(-len(labels) // PART_IMAGES), "parts of the test images", batch
    )
    logits = read_tensors((part.tensors for part in made), "logits")["logits"]
    num_starts = len(held_out_starts(context))
    tested = {
        "images.sha256": dataset.sha256,
        "images.num": len(labels),
        "precision": settings.evaluate.precision,
    }
    calibrated = {"clean_accuracy": accuracy(logits, labels).item()}
    calibrated |= _calibration(settings.data.seed, logits, labels)
    told, energies = _out_of_distribution(context, parts, num_starts, logits, batch)
    save_tensors(energies, context.folder / ENERGIES_FILE)
    robust = measure_robustness(context, parts, labels, len(dataset.classes))
    constants = {"data.seed": settings.data.seed, "bins": NUM_BINS}
    protocols = dict.fromkeys(calibrated, tested | constants)
    protocols |= {name: tested | _ood_protocol(context, num_starts, name) for name in told}
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


def _ood_protocol(context: StageContext, num_starts: int, name: str) -> dict[str, Any]:
    """What one figure depends on: the attack only where seeds climb, seeds only where there are some."""
    settings, files = context.settings, context.inputs["data"] / "seeds"
    own = settings.evaluate.ood
    if name == "energy_real":
        return {}
    protocol: dict[str, Any] = {
        "ood": Dataset.read(files).sha256 if files.is_dir() else settings.data.ood,
        "ood.num": min(own.num_images, num_starts),
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
    context: StageContext, parts: Parts, num_starts: int, logits: Tensor, batch: int
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """How well images are told from seeds, as they are and made to look like images within a ball.

    Each score is attacked by climbing itself (Augustin et al. 2020). Returns figures, and the energies of
    images, seeds and seeds that climbed the energy's score.
    """
    settings, seed = context.settings.evaluate.ood, context.settings.data.seed
    rng = np.random.Generator(np.random.Philox(key=[stream_seed(seed, "evaluate/ood/subset"), 0]))
    subset = np.sort(rng.permutation(num_starts)[: settings.num_images])
    num_parts = -(-len(subset) // PART_IMAGES)
    made = parts.make(ClassifierMaker.ood, num_parts, "parts of the OOD images", subset, batch)
    found = read_tensors((part.tensors for part in made), "logits", "climbed_energy", "climbed_confidence")
    metrics = {}
    for suffix, score, climbed in (
        ("", _negative_energy, "climbed_energy"),
        ("_softmax", _confidence, "climbed_confidence"),
    ):
        real, told = score(logits), score(found["logits"])
        metrics[f"ood_auroc{suffix}"] = auroc(real, told).item()
        metrics[f"ood_fpr95{suffix}"] = fpr95(real, told).item()
        metrics[f"ood_auroc_adversarial{suffix}"] = auroc(real, score(found[climbed])).item()
    energies = {
        "real": energy_from_logits(logits),
        "ood": energy_from_logits(found["logits"]),
        "ood_adversarial": energy_from_logits(found["climbed_energy"]),
    }
    means = {f"energy_{name}": energy.double().mean().item() for name, energy in energies.items()}
    return metrics | means, energies


def _negative_energy(logits: Tensor) -> Tensor:
    return -energy_from_logits(logits)


def _confidence(logits: Tensor) -> Tensor:
    return logits.softmax(dim=1).amax(dim=1)
