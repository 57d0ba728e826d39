"""Robust accuracy on one seeded subset of the test images, and whether it can be believed."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from atjem.gate import PASSED, UNDECIDED, Check, honesty_gate, verdict
from atjem.robustness import BATCH, Outcome, attacks_of, share
from data.rng import stream_seed
from pipelines.context import StageContext
from pipelines.stages.classifier_parts import ClassifierMaker, Indices, outcomes_of
from pipelines.stages.inputs import batch_size, read_dataset
from pipelines.stages.parts import Part, Parts
from pipelines.stages.tensors import read_tensors

IMAGES_FILE = "robust.parquet"
_FACTORS = (0.5, 2.0)  # of eps, for the curve beside eps itself


@dataclass(frozen=True)
class Robustness:
    """Figures, what they depend on, reasons for absent ones, the gate's checks, accuracy under PGD by eps.

    holds: by accuracy, which images of the subset it counts, (N,) bool.
    """

    metrics: dict[str, float]
    absent: dict[str, str]
    checks: list[Check]
    curve: list[dict[str, float]]
    protocols: dict[str, dict[str, Any]]
    holds: dict[str, Tensor]


def measure_robustness(context: StageContext, parts: Parts, labels: Tensor, num_classes: int) -> Robustness:
    """On one seeded subset of the test images, the same for every model. Writes what became of each image."""
    settings, batch = context.settings.evaluate.robust, batch_size(context, BATCH)
    subset = _subset(len(labels), settings.num_images, context.settings.data.seed)
    largest = _largest_eps(context)
    budgets = sorted({*(factor * settings.eps for factor in _FACTORS), settings.eps, largest})
    made = parts.make(
        ClassifierMaker.robust,
        -(-len(subset) // batch),
        "parts of the attacked images",
        subset,
        budgets,
        batch,
    )
    found = read_tensors((part.tensors for part in made), "holds", "stronger", "no_gradient", "difference")
    by_eps = dict(zip(budgets, found["holds"].T, strict=True))
    counted = {"pgd_accuracy": by_eps[settings.eps]}
    absent, attacked = {}, None
    if settings.attack == "autoattack":
        attacked = _attacked(context, made, num_classes)
        counted["robust_accuracy"] = attacked.holds
    else:
        absent["robust_accuracy"] = "evaluate.robust.attack is 'pgd'"
    metrics = {"robust_num_images": len(subset), **{name: share(kept) for name, kept in counted.items()}}
    checks = honesty_gate(
        attacked=attacked,
        by_eps=by_eps,
        stronger=found["stronger"],
        no_gradient=found["no_gradient"],
        difference=found["difference"].max().item(),
        eps=settings.eps,
        largest_eps=largest,
    )
    judged = verdict(checks)
    if judged == UNDECIDED:
        undecided = ", ".join(check.name for check in checks if check.verdict == UNDECIDED)
        absent["robust_gate"] = f"too few images to tell: {undecided}"
    else:
        metrics["robust_gate"] = float(judged == PASSED)
    _write_images(context, subset, labels[subset], by_eps, attacked)
    curve = [{"eps": eps, "accuracy": share(by_eps[eps])} for eps in budgets]
    protocols = _protocols(context, subset, num_classes, batch)
    return Robustness(metrics, absent, checks, curve, protocols, counted)


def _attacked(context: StageContext, made: Sequence[Part], num_classes: int) -> Outcome:
    """Reports images that the model saw as another class when it was asked again."""
    found = read_tensors((part.tensors for part in made), "broken_by", "num_changed")
    names, changed = outcomes_of(num_classes), int(found["num_changed"].sum())
    if changed:
        context.report.say(
            f"{changed} attacked images changed their prediction when judged again; they count as broken"
        )
    return Outcome([names[by] for by in found["broken_by"].tolist()], torch.empty(0), changed)


def _protocols(
    context: StageContext, subset: Indices, num_classes: int, batch: int
) -> dict[str, dict[str, Any]]:
    settings, precision = context.settings.evaluate.robust, context.settings.evaluate.precision
    where = {
        "subset.sha256": hashlib.sha256(subset.tobytes()).hexdigest(),
        "subset.num": len(subset),
        "attack.norm": settings.norm,
        "attack.eps": settings.eps,
        "attack.batch_size": batch,
        "attack.precision": f"{precision}, judged in fp32",
        "data.seed": context.settings.data.seed,
    }
    steps = {"pgd.steps": settings.pgd_steps, "pgd.step_size": "2.5 * eps / steps"}
    auto = {
        "attack.members": attacks_of(num_classes),
        "attack.version": f"AutoAttack standard, pyautoattack {version('pyautoattack')}",
        "attack.iterations": settings.iterations,
    }
    return {
        "robust_num_images": where,
        "pgd_accuracy": where | steps,
        "robust_accuracy": where | auto,
        "robust_gate": where | steps | (auto if settings.attack == "autoattack" else {}),
    }


def _largest_eps(context: StageContext) -> float:
    """Smallest eps at which every image can reach uniform grey."""
    data = read_dataset(context.inputs["data"])
    pixels = data.channels * data.image_size**2
    return {"Linf": 0.5, "L2": 0.5 * math.sqrt(pixels)}[context.settings.evaluate.robust.norm]


def _write_images(
    context: StageContext,
    subset: Indices,
    y: Tensor,
    by_eps: dict[float, Tensor],
    attacked: Outcome | None,
) -> None:
    """A row an image: its place in the test split, its label, and what broke it ('' where nothing did)."""
    columns: dict[str, object] = {"index": subset, "label": y.tolist()}
    columns |= {f"holds_pgd_{eps:g}": kept.tolist() for eps, kept in by_eps.items()}
    if attacked is not None:
        columns["broken_by"] = attacked.broken_by
    pq.write_table(pa.table(columns), context.folder / IMAGES_FILE)


def _subset(num_images: int, wanted: int, seed: int) -> Indices:
    """In the order of the split, so that neighbours are read together."""
    rng = np.random.Generator(np.random.Philox(key=[stream_seed(seed, "evaluate/subset"), 0]))
    return np.sort(rng.permutation(num_images)[:wanted])
