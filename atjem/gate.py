"""Can a robust accuracy be believed? Signs of masked gradients (Athalye et al. 2018; Carlini et al. 2019).

A defence whose gradients tell nothing survives gradient attacks without being robust. Each check compares two
outcomes image by image; it fails where the difference is larger than chance explains, and says 'not
decidable' where there are too few images to tell.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from scipy.stats import binomtest  # type: ignore[import-untyped]
from torch import Tensor, nn

from atjem.robustness import Outcome

PASSED, FAILED, UNDECIDED = "passed", "failed", "not decidable"
FEWEST = 30  # images with which a check can fail at all
_CHANCE = 0.01  # of failing a check that holds
_TOLERATED = 0.01  # share of images that may go astray
_SAME = 1e-3  # between two passes over the same images, relative to the largest logit


@dataclass(frozen=True)
class Check:
    """One sign, what was seen (a share of images unless `told` says otherwise), and how it was judged."""

    name: str
    verdict: str
    seen: float
    told: str


def honesty_gate(
    *,
    attacked: Outcome | None,
    by_eps: Mapping[float, Tensor],
    stronger: Tensor,
    no_gradient: Tensor,
    difference: float,
    eps: float,
    largest_eps: float,
) -> list[Check]:
    """All checks of one evaluation of N images.

    by_eps: for each budget, `eps` and `largest_eps` among them, which images hold under PGD, (N,) bool;
    stronger: which hold at `eps` under more steps and restarts; attacked: by AutoAttack, when it was run;
    no_gradient: by `lacks_gradient`, (N,) bool; difference: by `order_difference`. At `largest_eps` every
    image can become every other, so no accuracy is honest but that of chance.
    """
    told = f"largest difference between two passes, relative to the largest logit; {_SAME:g} is tolerated"
    checks = [
        _share(
            "input gradients", int(no_gradient.sum()), len(no_gradient), "images whose margin has no gradient"
        ),
        Check("determinism", PASSED if difference <= _SAME else FAILED, difference, told),
    ]
    if attacked is not None:
        checks.append(_black_box(attacked))
    return [
        *checks,
        _falls(by_eps),
        _budget(by_eps[eps] if attacked is None else attacked.holds, stronger),
        _reaches_zero(by_eps[largest_eps], largest_eps),
    ]


def verdict(checks: list[Check]) -> str:
    """The worst of them: failed, not decidable, passed."""
    verdicts = {check.verdict for check in checks}
    return next((worst for worst in (FAILED, UNDECIDED) if worst in verdicts), PASSED)


def lacks_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(N,) bool: the image's gradient is zero. x: (N, C, H, W), one batch; y: (N,).

    Of the margin between the label's logit and the next, which no saturated softmax can hide.
    """
    x = x.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        logits = model(x)
        own = logits.gather(1, y[:, None])[:, 0]
        others = logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
        margin = (own - others).sum()
        (gradient,) = torch.autograd.grad(margin, x) if margin.requires_grad else (x * 0,)
    return (gradient.flatten(1).norm(dim=1) < 1e-12).cpu()


@torch.no_grad()
def order_difference(model: nn.Module, x: Tensor) -> float:
    """Largest difference of logits between two passes over one batch in opposite orders.

    Relative to the largest logit; 0 for a deterministic network. x: (N, C, H, W).
    """
    order = torch.arange(len(x) - 1, -1, -1)
    first, again = model(x), model(x[order])[order]
    return float((first - again).abs().max() / first.abs().max().clamp_min(1e-12))


def _black_box(attacked: Outcome) -> Check:
    """Square sees no gradient; what it breaks, gradients should have broken before."""
    tried = [by for by in attacked.broken_by if by in ("", "square")]
    broken = sum(by == "square" for by in tried)
    return _share("black box", broken, len(tried), "images broken by Square alone, of those that held before")


def _falls(by_eps: Mapping[float, Tensor]) -> Check:
    """Accuracy never rises from one budget to the next."""
    worst = Check("falls with eps", UNDECIDED, 0.0, f"fewer than {FEWEST} images")
    ordered = sorted(by_eps)
    for small, large in pairwise(ordered):
        check = _paired(
            "falls with eps",
            gained=int((by_eps[large] & ~by_eps[small]).sum()),
            lost=int((by_eps[small] & ~by_eps[large]).sum()),
            num=len(by_eps[small]),
            told=f"images that hold at eps {large:g} and not at {small:g}",
        )
        if worst.verdict == UNDECIDED or check.verdict == FAILED:
            worst = check
    return worst


def _budget(base: Tensor, stronger: Tensor) -> Check:
    """A search that is cut short is no measurement: more of it breaks little that the reported one left."""
    return _paired(
        "more steps",
        gained=int((base & ~stronger).sum()),
        lost=int((stronger & ~base).sum()),
        num=len(base),
        told="images broken by more steps and restarts alone",
        tolerated=0.05,
    )


def _reaches_zero(holds: Tensor, eps: float) -> Check:
    told = f"images that hold at eps {eps:g}, where any image is within reach"
    return _share("reaches zero", int(holds.sum()), len(holds), told)


def _share(name: str, count: int, num: int, told: str) -> Check:
    """Fails where the share of images is above what is tolerated, by more than chance."""
    seen, told = count / max(num, 1), f"{told}: {count} of {num}"
    if num < FEWEST:
        return Check(name, UNDECIDED, seen, f"{told}; too few to tell")
    chance = binomtest(count, num, _TOLERATED, alternative="greater").pvalue
    return Check(name, FAILED if chance < _CHANCE else PASSED, seen, told)


def _paired(
    name: str, *, gained: int, lost: int, num: int, told: str, tolerated: float = _TOLERATED
) -> Check:
    """A sign test of the images that changed sides (McNemar), and a share that matters."""
    told = f"{told}: {gained} of {num}, the other way {lost}"
    if num < FEWEST:
        return Check(name, UNDECIDED, gained / max(num, 1), f"{told}; too few to tell")
    changed = gained + lost
    chance = binomtest(gained, changed, 0.5, alternative="greater").pvalue if changed else 1.0
    failed = chance < _CHANCE and (gained - lost) / num > tolerated
    return Check(name, FAILED if failed else PASSED, gained / num, told)
