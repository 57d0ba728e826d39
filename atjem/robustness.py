"""Robust accuracy: AutoAttack (the reported number) and PGD (the training-time curve's)."""

import logging

import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from atjem.attacks import pgd
from atjem.balls import make_ball
from atjem.objectives import cross_entropy
from atjem.scores import accuracy

_CHUNK = 100  # images attacked together; fixed, since AutoAttack's random numbers depend on the batch


def autoattack_accuracy(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: float,
    num_classes: int,
    seed: int,
    iterations: int | None = None,
) -> float:
    """Accuracy under AutoAttack standard (Croce & Hein 2020): APGD-CE, APGD-T, FAB-T, Square.

    x: (N, C, H, W) float32 in [0, 1]; y: (N,). With K < 10 classes the targeted attacks aim at all K - 1
    others; with K < 4 APGD-T, whose loss needs four logits, is left out (see `attacks_of`). The images that
    survive are judged again by the plain model, not by the attack's own books. `iterations` shortens every
    member, and aims at one other class: a trial of the code, no longer AutoAttack.
    """
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    attack = AutoAttack(model, norm=norm, eps=eps, version="standard", device=x.device, seed=seed)
    _aim(attack, num_classes)
    if iterations is not None:
        _shorten(attack, iterations)
    x = x.contiguous()  # the L2 attacks view images as rows
    x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=_CHUNK)
    _check_inside(x_adv, x, norm, eps)
    return _accuracy(model, x_adv, y)


def _aim(attack: AutoAttack, num_classes: int) -> None:
    attack.attacks_to_run = attacks_of(num_classes)
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, num_classes - 1)


def _shorten(attack: AutoAttack, iterations: int) -> None:
    attack.apgd.n_iter = attack.apgd_targeted.n_iter = attack.fab.n_iter = iterations
    attack.square.n_queries = iterations
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = 1


def attacks_of(num_classes: int) -> list[str]:
    """AutoAttack's members for a number of classes, part of the protocol of a robust accuracy."""
    targeted = ["apgd-t"] if num_classes >= 4 else []
    return ["apgd-ce", *targeted, "fab-t", "square"]


def pgd_accuracy(
    model: nn.Module, x: Tensor, y: Tensor, *, norm: str, eps: float, num_steps: int, seed: int
) -> float:
    """Accuracy under PGD on the cross-entropy from a random start, with steps of 2.5 * eps / num_steps."""
    ball = make_ball(norm, eps)
    starts = ball.sample(x, torch.Generator().manual_seed(seed))
    chunks = [
        pgd(
            model,
            part,
            labels,
            objective=cross_entropy,
            ball=ball,
            step_size=2.5 * eps / num_steps,
            num_steps=num_steps,
            x_start=start,
        )
        for part, labels, start in zip(x.split(_CHUNK), y.split(_CHUNK), starts.split(_CHUNK), strict=True)
    ]
    return _accuracy(model, torch.cat(chunks), y)


@torch.no_grad()
def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return accuracy(torch.cat([model(part) for part in x.split(_CHUNK)]), y).item()


def _check_inside(x_adv: Tensor, x: Tensor, norm: str, eps: float) -> None:
    """A robust accuracy counts only if no adversarial image left the ball or the pixel range."""
    delta = (x_adv - x).flatten(1)
    size = delta.norm(dim=1).max() if norm == "L2" else delta.abs().max()
    assert size <= eps * 1.001 + 1e-6, f"adversarial images left the {norm} ball: {size} > {eps}"
    assert x_adv.min() >= 0, "adversarial images left [0, 1]"
    assert x_adv.max() <= 1, "adversarial images left [0, 1]"
