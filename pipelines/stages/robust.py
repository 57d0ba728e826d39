"""Robust accuracy on one seeded subset of the test images, and whether it can be believed."""

import hashlib
import math
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from atjem.gate import PASSED, UNDECIDED, Check, honesty_gate, verdict
from atjem.models.registry import JointEnergyModel
from atjem.robustness import Kept, Outcome, attacks_of, autoattack, holds_under_pgd, share
from data.images import Images
from data.rng import stream_seed
from pipelines.context import StageContext
from pipelines.stages.inputs import as_float

IMAGES_FILE = "robust.parquet"
_KEPT = "autoattack"  # among the checkpoints, until the artifact is there
Indices = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
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


def measure_robustness(
    context: StageContext, model: JointEnergyModel, images: Images, labels: Tensor, device: torch.device
) -> Robustness:
    """On one seeded subset of the test images, the same for every model. Writes what became of each image."""
    settings = context.settings.evaluate.robust
    subset = _subset(len(images), settings.num_images, context.settings.data.seed)
    x, y = as_float(images.get(subset), device), labels[subset].to(device)
    seed = stream_seed(context.settings.data.seed, "evaluate/attack") % 2**31
    largest = _largest_eps(settings.norm, x)
    budgets = sorted({*(factor * settings.eps for factor in _FACTORS), settings.eps, largest})
    holds = partial(holds_under_pgd, model, x, y, norm=settings.norm, seed=seed)
    by_eps = {eps: holds(eps=eps, num_steps=settings.pgd_steps) for eps in budgets}
    stronger = holds(eps=settings.eps, num_steps=2 * settings.pgd_steps, restarts=2)
    counted = {"pgd_accuracy": by_eps[settings.eps]}
    absent, attacked = {}, None
    if settings.attack == "autoattack":
        attacked = autoattack(
            model,
            x,
            y,
            norm=settings.norm,
            eps=settings.eps,
            num_classes=model.spec.num_classes,
            seed=seed,
            iterations=settings.iterations,
            kept=Kept(context.checkpoints / _KEPT),
            progress=partial(_follow, context),
        )
        counted["robust_accuracy"] = attacked.holds
    else:
        absent["robust_accuracy"] = "evaluate.robust.attack is 'pgd'"
    metrics = {"robust_num_images": len(subset), **{name: share(kept) for name, kept in counted.items()}}
    checks = honesty_gate(
        model,
        x,
        y,
        attacked=attacked,
        by_eps=by_eps,
        stronger=stronger,
        eps=settings.eps,
        largest_eps=largest,
    )
    judged = verdict(checks)
    if judged == UNDECIDED:
        undecided = ", ".join(check.name for check in checks if check.verdict == UNDECIDED)
        absent["robust_gate"] = f"too few images to tell: {undecided}"
    else:
        metrics["robust_gate"] = float(judged == PASSED)
    _write_images(context, subset, y, by_eps, attacked)
    curve = [{"eps": eps, "accuracy": share(by_eps[eps])} for eps in budgets]
    protocols = _protocols(context, subset, model.spec.num_classes)
    return Robustness(metrics, absent, checks, curve, protocols, counted)


def _follow(context: StageContext, done: int, total: int) -> None:
    """Told before each batch; those before it are finished."""
    context.report.progress(done, total, "attacks on images")
    files = (context.checkpoints / _KEPT).glob("[!.]*.safetensors")
    if newest := max(files, key=lambda file: file.stat().st_mtime_ns, default=None):
        context.mirror.push(newest)


def _protocols(context: StageContext, subset: Indices, num_classes: int) -> dict[str, dict[str, Any]]:
    settings = context.settings.evaluate.robust
    where = {
        "subset.sha256": hashlib.sha256(subset.tobytes()).hexdigest(),
        "subset.num": len(subset),
        "attack.norm": settings.norm,
        "attack.eps": settings.eps,
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


def _largest_eps(norm: str, x: Tensor) -> float:
    """With which grey, and so every image, is within reach of any."""
    return 0.5 if norm == "Linf" else 0.5 * math.sqrt(x[0].numel())


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
    rng = np.random.Generator(np.random.Philox(key=[stream_seed(seed, "evaluate/subset"), 0]))
    return rng.permutation(num_images)[:wanted]
