"""Robust accuracy: AutoAttack (the reported number) and PGD over budgets, image by image."""

import logging
from dataclasses import dataclass

import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from atjem.attacks import pgd
from atjem.balls import make_ball
from atjem.objectives import cross_entropy

BATCH = 50  # images attacked together; part of the protocol, since AutoAttack's random numbers depend on it
CLEAN = "clean"  # in place of an attack: the image is misclassified as it is
RECOUNT = "recount"  # in place of an attack: the image is misclassified when it is judged again


@dataclass(frozen=True)
class Outcome:
    """What became of N images. broken_by: for each the attack that changed its prediction, `CLEAN`, or ''.

    x_adv: (N, C, H, W), the images that break it, or those that were given. num_changed: images that model
    and judge saw differently, or the judge at the end; they count as broken.
    """

    broken_by: list[str]
    x_adv: Tensor
    num_changed: int = 0

    @property
    def holds(self) -> Tensor:
        """(N,) bool: classified correctly whatever was tried."""
        return torch.tensor([not attack for attack in self.broken_by])

    @property
    def accuracy(self) -> float:
        return share(self.holds)


def autoattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: float,
    num_classes: int,
    seed: int,
    iterations: int | None = None,
    judge: nn.Module | None = None,
    batch_size: int = BATCH,
) -> Outcome:
    """AutoAttack standard (Croce & Hein 2020): APGD-CE, APGD-T, FAB-T, Square, each on what still holds.

    x: (N, C, H, W) float32 in [0, 1]; y: (N,). Each batch runs through all attacks before the next, and
    starts from the same seed. With K < 10 classes the targeted attacks aim at all K - 1 others; with K < 4
    APGD-T, whose loss needs four logits, is left out (see `attacks_of`). `judge` decides what is
    misclassified: the same network in another precision; None takes the model. All images are judged again
    at the end of their batch, in batches of the same shape. `iterations` shortens every member, and aims at
    one other class: a trial of the code, no longer AutoAttack.
    """
    attack = _prepared(model, norm, eps, num_classes, seed, iterations, x.device)
    x = x.contiguous()  # the L2 attacks view images as rows
    batches = [
        _attacked(attack, model, judge or model, images, labels, attacks_of(num_classes))
        for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True)
    ]
    x_adv = torch.cat([batch.x_adv for batch in batches])
    _check_inside(x_adv, x, norm, eps)
    broken_by = [attack for batch in batches for attack in batch.broken_by]
    return Outcome(broken_by, x_adv, sum(batch.num_changed for batch in batches))


def _attacked(
    attack: AutoAttack, model: nn.Module, judge: nn.Module, x: Tensor, y: Tensor, attacks: list[str]
) -> Outcome:
    """One batch through all attacks, each on the images that still hold.

    Attacks pass over images that the model misclassifies as they are, so where only the judge is right about
    one, it does not hold either.
    """
    x_adv, by_judge = x.clone(), correct(judge, x, y)
    holds = by_judge & correct(model, x, y)
    broken_by = [
        "" if own else RECOUNT if right else CLEAN for own, right in zip(holds, by_judge, strict=True)
    ]
    disagreed = by_judge & ~holds
    for name in attacks:
        places = holds.nonzero()[:, 0]
        if not len(places):
            break
        tried = _perturbed(attack, name, x[places], y[places])
        broken = ~correct(judge, tried, y[places], size=len(x))
        x_adv[places[broken]], holds[places[broken]] = tried[broken], False
        for place in places[broken].tolist():
            broken_by[place] = name
    again = correct(judge, x_adv, y)
    for place in (holds & ~again).nonzero()[:, 0].tolist():
        broken_by[place] = RECOUNT
    return Outcome(broken_by, x_adv, int((disagreed | (again != holds)).sum()))


def _prepared(
    model: nn.Module,
    norm: str,
    eps: float,
    num_classes: int,
    seed: int,
    iterations: int | None,
    device: torch.device,
) -> AutoAttack:
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    attack = AutoAttack(model, norm=norm, eps=eps, version="standard", device=device, seed=seed)
    _aim(attack, num_classes)
    if iterations is not None:
        _shorten(attack, iterations)
    return attack


def _aim(attack: AutoAttack, num_classes: int) -> None:
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, num_classes - 1)
    attack.apgd.loss, attack.fab.targeted = "ce", True


def _shorten(attack: AutoAttack, iterations: int) -> None:
    attack.apgd.n_iter = attack.apgd_targeted.n_iter = attack.fab.n_iter = iterations
    attack.square.n_queries = iterations
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = 1


@torch.no_grad()
def _perturbed(attack: AutoAttack, name: str, x: Tensor, y: Tensor) -> Tensor:
    members = {
        "apgd-ce": attack.apgd,
        "apgd-t": attack.apgd_targeted,
        "fab-t": attack.fab,
        "square": attack.square,
    }
    member = members[name]
    member.seed = attack.seed
    tried: Tensor = member.perturb(x.clone(), y.clone())
    return tried


def attacks_of(num_classes: int) -> list[str]:
    """AutoAttack's members for a number of classes, part of the protocol of a robust accuracy."""
    targeted = ["apgd-t"] if num_classes >= 4 else []
    return ["apgd-ce", *targeted, "fab-t", "square"]


def holds_under_pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: float,
    num_steps: int,
    seed: int,
    restarts: int = 1,
    judge: nn.Module | None = None,
) -> Tensor:
    """(N,) bool: images that PGD on the cross-entropy does not break, from `restarts` random starts.

    x: (N, C, H, W) float32 in [0, 1]; y: (N,). Steps have a length of 2.5 * eps / num_steps. `judge` as in
    `autoattack`.
    """
    ball, generator = make_ball(norm, eps), torch.Generator().manual_seed(seed)
    holds = torch.ones(len(x), dtype=torch.bool)
    for _ in range(restarts):
        starts = ball.sample(x, generator)
        for places in torch.arange(len(x)).split(BATCH):
            tried = pgd(
                model,
                x[places],
                y[places],
                objective=cross_entropy,
                ball=ball,
                step_size=2.5 * eps / num_steps,
                num_steps=num_steps,
                x_start=starts[places],
            )
            holds[places] &= correct(judge or model, tried, y[places]).cpu()
    return holds


def pgd_accuracy(
    model: nn.Module, x: Tensor, y: Tensor, *, norm: str, eps: float, num_steps: int, seed: int
) -> float:
    """Accuracy under PGD from one random start, as `holds_under_pgd` has it."""
    holds = holds_under_pgd(model, x, y, norm=norm, eps=eps, num_steps=num_steps, seed=seed)
    return share(holds)


def share(holds: Tensor) -> float:
    """Of images, (N,) bool."""
    return holds.double().mean().item()


@torch.no_grad()
def correct(model: nn.Module, x: Tensor, y: Tensor, size: int | None = None) -> Tensor:
    """(N,) bool: classified as labelled. Raises ValueError for infinite or nan logits.

    size: of the batches, of which the last is padded: kernels differ between shapes in the last bits.
    """
    size = size or min(BATCH, len(x))
    logits = torch.cat([model(_padded(part, size))[: len(part)] for part in x.split(size)])
    if not logits.isfinite().all():
        raise ValueError("the model's logits are not finite: it has diverged, and has no accuracy")
    return logits.argmax(dim=1) == y


def _padded(x: Tensor, size: int) -> Tensor:
    return torch.cat([x, x[:1].expand(size - len(x), *x.shape[1:])]) if len(x) < size else x


def _check_inside(x_adv: Tensor, x: Tensor, norm: str, eps: float) -> None:
    """A robust accuracy counts only if no adversarial image left the ball or the pixel range."""
    delta = (x_adv - x).flatten(1)
    size = delta.norm(dim=1).max() if norm == "L2" else delta.abs().max()
    assert size <= eps * 1.001 + 1e-6, f"adversarial images left the {norm} ball: {size} > {eps}"
    assert x_adv.min() >= 0, "adversarial images left [0, 1]"
    assert x_adv.max() <= 1, "adversarial images left [0, 1]"
