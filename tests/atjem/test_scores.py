"""Accuracy, AUROC and calibration against hand values and scikit-learn."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from atjem.calibration import (
    adaptive_calibration_error,
    expected_calibration_error,
    fit_temperature,
)
from atjem.scores import accuracy, auroc, fpr95


def scores(kind):
    """A positive and a negative sample of different sizes."""
    generator = torch.Generator().manual_seed(0)
    positive = torch.randn(37, generator=generator) + 0.5
    negative = torch.randn(53, generator=generator)
    return {
        "overlapping": (positive, negative),
        "many-ties": (positive.round(), negative.round()),
        "all-tied": (torch.ones(4), torch.ones(3)),
        "separated": (positive + 100, negative),
        "reversed": (positive - 100, negative),
        "huge-logits": (1e4 + positive, 1e4 + negative),
        "huge-negative-logits": (-1e4 + positive, -1e4 + negative),
        "one-of-each": (positive[:1], negative[:1]),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "overlapping",
        "many-ties",
        "all-tied",
        "separated",
        "reversed",
        "huge-logits",
        "huge-negative-logits",
        "one-of-each",
    ],
)
def test_auroc_equals_scikit_learn(kind):
    positive, negative = scores(kind)
    truth = [1] * len(positive) + [0] * len(negative)
    expected = roc_auc_score(truth, torch.cat([positive, negative]).double().numpy())
    assert auroc(positive, negative).item() == pytest.approx(expected, abs=1e-12)


def test_auroc_counts_ties_half():
    # Pairs: 2 > 1, 2 = 2, 3 > 1, 3 > 2.
    assert auroc(torch.tensor([2.0, 3.0]), torch.tensor([2.0, 1.0])).item() == 3.5 / 4


def test_auroc_swaps_to_its_complement():
    positive, negative = scores("many-ties")
    assert (auroc(positive, negative) + auroc(negative, positive)).item() == pytest.approx(1)


def test_accuracy_hand_value():
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0], [-1.0, -2.0]])
    assert accuracy(logits, torch.tensor([0, 1, 1, 0])).item() == 0.75


def logits_of(probabilities):
    return torch.tensor(probabilities).log()


def test_calibration_error_hand_value():
    # Confidences 0.9, 0.9 (one right of two: gap 0.4) and 0.6, 0.6 (both right: gap 0.4, other side),
    # 0.75 (wrong: gap 0.75).
    logits = logits_of([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.25, 0.75]])
    error = expected_calibration_error(logits, torch.tensor([0, 1, 0, 1, 0]))
    assert error.item() == pytest.approx((2 * 0.4 + 2 * 0.4 + 0.75) / 5, abs=1e-6)


def test_calibration_error_averages_within_a_bin():
    # With two bins both examples fall into (0.5, 1]: mean confidence 0.75, accuracy 0.5.
    logits = logits_of([[0.9, 0.1], [0.6, 0.4]])
    error = expected_calibration_error(logits, torch.tensor([0, 1]), num_bins=2)
    assert error.item() == pytest.approx(0.25, abs=1e-6)


def test_calibrated_predictions_have_no_error():
    logits = logits_of([[0.75, 0.25]] * 4)
    assert expected_calibration_error(logits, torch.tensor([0, 0, 0, 1])).item() == pytest.approx(0, abs=1e-6)


def test_calibration_error_at_extreme_logits():
    logits = torch.tensor([[1e4, 0.0], [1e4, 0.0], [0.0, 1e4], [-1e4, 1e4]])
    error = expected_calibration_error(logits, torch.tensor([0, 1, 1, 1]))
    assert error.item() == pytest.approx(0.25, abs=1e-6)


def test_fpr95_by_hand():
    positive = torch.arange(100.0)  # 95 of them are 5 or more
    assert fpr95(positive, torch.tensor([4.0, 4.9, 5.0, 50.0])) == 0.5
    assert fpr95(positive, torch.tensor([-1.0])) == 0
    assert fpr95(torch.tensor([1.0]), torch.tensor([0.0, 1.0, 2.0])).item() == pytest.approx(2 / 3)
    assert fpr95(positive, torch.tensor([torch.nan])).isnan()


def test_adaptive_bins_hold_equally_many():
    """Two bins by hand: confidences .6 .7 | .8 .9 with one of two correct in each."""
    confidence = torch.tensor([0.9, 0.6, 0.8, 0.7], dtype=torch.float64)
    logits = torch.stack([confidence, 1 - confidence], dim=1).log()
    y = torch.tensor([0, 1, 1, 0])
    assert adaptive_calibration_error(logits, y, num_bins=2).item() == pytest.approx(0.5 * 0.15 + 0.5 * 0.35)


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0, 20.0])
def test_temperature_of_logits_that_are_known(temperature):
    """Labels drawn from softmax(z) and logits T z: the fit finds T."""
    generator = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(20_000, 5, generator=generator, dtype=torch.float64)
    y = torch.multinomial(z.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(temperature * z, y) == pytest.approx(temperature, rel=0.05)
    scaled = temperature * z / fit_temperature(temperature * z, y)
    assert expected_calibration_error(scaled, y) < 0.02
