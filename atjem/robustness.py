"""Robust accuracy: AutoAttack (the reported number) and PGD over budgets, image by image.

What an attack found is kept after each batch, so that an evaluation that was killed goes on with the next.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from pyautoattack import AutoAttack
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from atjem.attacks import pgd
from atjem.balls import make_ball
from atjem.objectives import cross_entropy

_CHUNK = 100  # images attacked together; fixed, since AutoAttack's random numbers depend on the batch
CLEAN = "clean"  # in place of an attack: the image is misclassified as it is
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Outcome:
    """What became of N images. broken_by: for each the attack that changed its prediction, `CLEAN`, or ''.

    x_adv: (N, C, H, W), the images that break it, or those that were given.
    """

    broken_by: list[str]
    x_adv: Tensor

    @property
    def holds(self) -> Tensor:
        """(N,) bool: classified correctly whatever was tried."""
        return torch.tensor([not attack for attack in self.broken_by])

    @property
    def accuracy(self) -> float:
        return share(self.holds)


@dataclass(frozen=True)
class Kept:
    """Batches of results in a folder, whole or not at all; None keeps nothing."""

    folder: Path | None = None

    def get(self, name: str) -> dict[str, Tensor] | None:
        if self.folder is None or not (file := self.folder / f"{name}.safetensors").is_file():
            return None
        try:
            return load_file(file)
        except SafetensorError:  # cut short on a disk that gave out
            return None

    def put(self, name: str, tensors: dict[str, Tensor]) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            near = self.folder / f".{name}.unfinished"
            save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, near)
            near.replace(self.folder / f"{name}.safetensors")


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
    kept: Kept = Kept(),
    progress: Progress = lambda done, total: None,
) -> Outcome:
    """AutoAttack standard (Croce & Hein 2020): APGD-CE, APGD-T, FAB-T, Square, each on what still holds.

    x: (N, C, H, W) float32 in [0, 1]; y: (N,). With K < 10 classes the targeted attacks aim at all K - 1
    others; with K < 4 APGD-T, whose loss needs four logits, is left out (see `attacks_of`). The images are
    judged again at the end by the plain model, not by the attack's own books. `iterations` shortens every
    member, and aims at one other class: a trial of the code, no longer AutoAttack. kept: of the same call
    that was cut short. Raises ValueError when the books and the model disagree.
    """
    attack = _prepared(model, norm, eps, num_classes, seed, iterations, x.device)
    x = x.contiguous()  # the L2 attacks view images as rows
    x_adv, broken_by = x.clone(), [CLEAN if wrong else "" for wrong in (~correct(model, x, y)).tolist()]
    attacks = attacks_of(num_classes)
    for turn, name in enumerate(attacks):
        holding = torch.tensor([place for place, by in enumerate(broken_by) if not by], dtype=torch.long)
        for number, places in enumerate(holding.split(_CHUNK)):
            progress(turn * len(x) + number * _CHUNK, len(attacks) * len(x))
            batch = f"{name}-{number:05d}"
            found = kept.get(batch)
            if found is None:
                found = _broken(attack, model, name, x, y, places)
                kept.put(batch, found)
            x_adv[found["places"]] = found["x_adv"].to(x)
            for place in found["places"].tolist():
                broken_by[place] = name
    attacked = Outcome(broken_by, x_adv)
    _check_inside(x_adv, x, norm, eps)
    if not torch.equal(correct(model, x_adv, y).cpu(), attacked.holds):
        raise ValueError("AutoAttack's books and the model disagree: its predictions are not deterministic")
    return attacked


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
def _broken(
    attack: AutoAttack, model: nn.Module, name: str, x: Tensor, y: Tensor, places: Tensor
) -> dict[str, Tensor]:
    """The places of the images that one attack breaks, and what breaks them."""
    members = {
        "apgd-ce": attack.apgd,
        "apgd-t": attack.apgd_targeted,
        "fab-t": attack.fab,
        "square": attack.square,
    }
    member = members[name]
    member.seed = attack.seed
    tried = member.perturb(x[places].clone(), y[places].clone())
    wrong = model(tried).argmax(dim=1) != y[places]
    return {"places": places[wrong.cpu()], "x_adv": tried[wrong]}


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
) -> Tensor:
    """(N,) bool: images that PGD on the cross-entropy does not break, from `restarts` random starts.

    x: (N, C, H, W) float32 in [0, 1]; y: (N,). Steps have a length of 2.5 * eps / num_steps.
    """
    ball, generator = make_ball(norm, eps), torch.Generator().manual_seed(seed)
    holds = torch.ones(len(x), dtype=torch.bool)
    for _ in range(restarts):
        starts = ball.sample(x, generator)
        for places in torch.arange(len(x)).split(_CHUNK):
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
            holds[places] &= correct(model, tried, y[places]).cpu()
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
def correct(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(N,) bool: classified as labelled. Raises ValueError for infinite or nan logits."""
    logits = torch.cat([model(part) for part in x.split(_CHUNK)])
    if not logits.isfinite().all():
        raise ValueError("the model's logits are not finite: it has diverged, and has no accuracy")
    return logits.argmax(dim=1) == y


def _check_inside(x_adv: Tensor, x: Tensor, norm: str, eps: float) -> None:
    """A robust accuracy counts only if no adversarial image left the ball or the pixel range."""
    delta = (x_adv - x).flatten(1)
    size = delta.norm(dim=1).max() if norm == "L2" else delta.abs().max()
    assert size <= eps * 1.001 + 1e-6, f"adversarial images left the {norm} ball: {size} > {eps}"
    assert x_adv.min() >= 0, "adversarial images left [0, 1]"
    assert x_adv.max() <= 1, "adversarial images left [0, 1]"
