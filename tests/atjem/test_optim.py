"""Optimisers and learning-rate schedules."""

import math

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from atjem.optim import SCHEDULES, lr_factor, make_optimizer, make_schedule


def optimizer(name="sgd", momentum=0.9):
    parameters = [nn.Parameter(torch.ones(2))]
    return make_optimizer(
        parameters, name=name, lr=0.5, momentum=momentum, weight_decay=5e-4, betas=(0.9, 0.95)
    )


@pytest.mark.parametrize(
    ("name", "momentum", "kind", "expected"),
    [
        ("sgd", 0.9, SGD, {"momentum": 0.9, "nesterov": True}),
        ("sgd", 0.0, SGD, {"momentum": 0.0, "nesterov": False}),
        ("adamw", 0.9, AdamW, {"betas": (0.9, 0.95)}),
    ],
    ids=["nesterov", "no-momentum", "adamw"],
)
def test_settings_reach_the_optimizer(name, momentum, kind, expected):
    made = optimizer(name, momentum)
    assert isinstance(made, kind)
    expected = expected | {"lr": 0.5, "weight_decay": 5e-4}
    assert made.param_groups[0].items() >= expected.items()


def test_unknown_optimizer_says_what_is_allowed():
    with pytest.raises(ValueError, match="name='SGD' is unknown; use 'sgd' or 'adamw'"):
        optimizer("SGD")


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("constant", 0, 1.0),
        ("constant", 99, 1.0),
        ("cosine", 0, 1.0),
        ("cosine", 25, 0.5 * (1 + math.sqrt(0.5))),
        ("cosine", 50, 0.5),
        ("cosine", 100, 0.0),
        ("cosine", 150, 0.0),
        ("piecewise", 49, 1.0),
        ("piecewise", 50, 0.1),
        ("piecewise", 74, 0.1),
        ("piecewise", 75, 0.01),
    ],
)
def test_factor_without_warm_up(schedule, step, expected):
    factor = lr_factor(step, schedule=schedule, warmup_steps=0, total_steps=100)
    assert factor == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_is_linear_and_multiplies_the_schedule(schedule):
    for step, warmup in enumerate([0.25, 0.5, 0.75, 1.0, 1.0]):
        plain = lr_factor(step, schedule=schedule, warmup_steps=0, total_steps=100)
        factor = lr_factor(step, schedule=schedule, warmup_steps=4, total_steps=100)
        assert factor == pytest.approx(warmup * plain)


def test_unknown_schedule_says_what_is_allowed():
    with pytest.raises(ValueError, match="schedule='step' is unknown; use 'constant', 'cosine', 'piecewise'"):
        make_schedule(optimizer(), schedule="step", warmup_steps=0, total_steps=4)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.25, 0.5, 0.5, 0.5]),
        ("piecewise", [0.25, 0.5, 0.05, 0.005]),
        ("cosine", [0.25, 0.25 * (1 + math.sqrt(0.5)), 0.25, 0.25 * (1 - math.sqrt(0.5))]),
    ],
    ids=["constant", "piecewise", "cosine"],
)
def test_rates_of_a_short_run(schedule, expected):
    sgd = optimizer()
    scheduler = make_schedule(sgd, schedule=schedule, warmup_steps=2, total_steps=4)
    rates = []
    for _ in range(4):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        scheduler.step()
    assert rates == pytest.approx(expected)
