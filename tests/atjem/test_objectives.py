"""Attack objectives against values computed by hand."""

import math

import pytest
import torch

from atjem.objectives import MODES, confidence, cross_entropy, joint, marginal, targeted_cross_entropy


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (joint, [0.0, math.log(3)]),
        (marginal, [math.log(4), math.log(4)]),
        (cross_entropy, [math.log(4), math.log(4 / 3)]),
        (targeted_cross_entropy, [-math.log(4), -math.log(4 / 3)]),
        (confidence, [math.log(3 / 4), math.log(3 / 4)]),
    ],
)
def test_hand_values(objective, expected):
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]], dtype=torch.float64)
    values = objective(logits, torch.tensor([0, 1]))
    assert values.tolist() == pytest.approx(expected)


def test_modes_are_named_after_their_energies():
    assert {"joint": joint, "marginal": marginal} == MODES
