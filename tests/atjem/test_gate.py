"""The gate lets an honest robust accuracy through and stops those of masked gradients."""

import pytest
import torch
from torch import nn

from atjem.gate import (
    FAILED,
    FEWEST,
    PASSED,
    UNDECIDED,
    honesty_gate,
    lacks_gradient,
    order_difference,
    verdict,
)
from atjem.robustness import Outcome, autoattack, holds_under_pgd

SIDE, EPS, SETTINGS = 8, 0.2, {"norm": "L2", "num_steps": 20, "seed": 0}
LARGEST = 0.5 * SIDE


class Quantised(nn.Module):
    """Looks at rounded pixels: its gradients are zero, its robustness is not what they say."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(torch.round(x * 4) / 4)


class Random(Quantised):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x + 0.3 * torch.rand(len(x), 1, SIDE, SIDE))


class Saturated(Quantised):
    """Logits so far apart that the cross-entropy's gradient underflows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1e4 * self.inner(x)


@pytest.fixture
def linear(make_linear) -> nn.Module:
    torch.manual_seed(0)
    return make_linear(torch.randn(4, SIDE * SIDE))


def gate(model: nn.Module, num: int = 80, attacked: bool = True):
    x = torch.rand(num, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    by_eps = {
        eps: holds_under_pgd(model, x, y, eps=eps, **SETTINGS) for eps in (EPS / 2, EPS, 2 * EPS, LARGEST)
    }
    stronger = holds_under_pgd(model, x, y, eps=EPS, restarts=2, **SETTINGS | {"num_steps": 40})
    found = None
    if attacked:
        found = autoattack(model, x, y, norm="L2", eps=EPS, num_classes=4, seed=0, iterations=200)
    checks = honesty_gate(
        attacked=found,
        by_eps=by_eps,
        stronger=stronger,
        no_gradient=lacks_gradient(model, x, y),
        difference=order_difference(model, x),
        eps=EPS,
        largest_eps=LARGEST,
    )
    return {check.name: check for check in checks}


def test_an_honest_model_passes(linear):
    checks = gate(linear)
    assert {check.verdict for check in checks.values()} == {PASSED}, checks
    assert verdict(list(checks.values())) == PASSED


def test_randomness_and_a_saturated_softmax_are_caught(linear):
    assert gate(Random(linear), attacked=False)["determinism"].verdict == FAILED
    checks = gate(Saturated(linear), attacked=False)
    assert checks["input gradients"].verdict == PASSED
    assert checks["reaches zero"].verdict == FAILED, checks


def test_a_hard_quantisation_is_caught(linear):
    checks = gate(Quantised(linear))
    failed = {name for name, check in checks.items() if check.verdict == FAILED}
    assert {"input gradients", "black box", "reaches zero"} <= failed, checks
    assert verdict(list(checks.values())) == FAILED


def test_few_images_decide_nothing(linear):
    checks = gate(linear, num=FEWEST - 1, attacked=False)
    verdicts = {check.verdict for name, check in checks.items() if name != "determinism"}
    assert verdicts == {UNDECIDED}
    assert verdict(list(checks.values())) == UNDECIDED


def test_margin_without_gradient_is_seen_where_logits_have_one():
    def constant_margin(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).sum(1, keepdim=True) + torch.tensor([0.0, 1.0])

    x, y = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 0, 1, 0])
    assert lacks_gradient(constant_margin, x, y).all()


def judged(name: str, **changed: object) -> str:
    holds = torch.arange(100) < 50
    outcome = {
        "attacked": Outcome([""] * 50 + ["apgd-ce"] * 50, torch.zeros(100, 1, 2, 2)),
        "by_eps": {0.1: holds, 0.2: holds, 9.0: torch.zeros(100, dtype=torch.bool)},
        "stronger": holds,
        "no_gradient": torch.zeros(100, dtype=torch.bool),
        "difference": 0.0,
    }
    checks = honesty_gate(eps=0.1, largest_eps=9.0, **outcome | changed)
    return next(check.verdict for check in checks if check.name == name)


@pytest.mark.parametrize(
    ("square", "before", "expected"),
    [(0, 0, PASSED), (2, 0, PASSED), (6, 0, FAILED), (40, 0, FAILED), (6, 70, FAILED), (6, 80, UNDECIDED)],
)
def test_square_may_break_what_chance_explains(square, before, expected):
    """Counts only images that no gradient attack broke."""
    books = ["square"] * square + ["apgd-ce"] * before + [""] * (100 - square - before)
    assert judged("black box", attacked=Outcome(books, torch.zeros(100, 1, 2, 2))) == expected


@pytest.mark.parametrize(("num", "expected"), [(50, PASSED), (53, PASSED), (65, FAILED)])
def test_accuracy_that_rises_with_eps_fails(num, expected):
    by_eps = {eps: torch.arange(100) < holding for eps, holding in ((0.1, 50), (0.2, num), (9.0, 0))}
    assert judged("falls with eps", by_eps=by_eps) == expected


@pytest.mark.parametrize(("num", "expected"), [(50, PASSED), (46, PASSED), (35, FAILED)])
def test_more_steps_that_break_many_more_fail(num, expected):
    """More than the figure that is reported: AutoAttack's, or without it PGD's."""
    stronger = torch.arange(100) < num
    assert judged("more steps", stronger=stronger) == expected
    assert judged("more steps", stronger=stronger, attacked=None) == expected
    weak = {0.1: torch.ones(100, dtype=torch.bool), 9.0: torch.zeros(100, dtype=torch.bool)}
    assert judged("more steps", stronger=stronger, by_eps=weak) == expected
