"""Calibration errors and temperature against hand values and drawn labels."""

import pytest
import torch

from atjem.calibration import (
    adaptive_calibration_error,
    expected_calibration_error,
    fit_temperature,
    reliability_bins,
)


def logits_of(probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("logits", "y", "num_bins", "expected"),
    [
        # Confidences 0.9, 0.9 (one right of two: gap 0.4) and 0.6, 0.6 (both right: gap 0.4, other side),
        # 0.75 (wrong: gap 0.75).
        (
            logits_of([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.25, 0.75]]),
            [0, 1, 0, 1, 0],
            15,
            (2 * 0.4 + 2 * 0.4 + 0.75) / 5,
        ),
        # With two bins both examples fall into (0.5, 1]: mean confidence 0.75, accuracy 0.5.
        (logits_of([[0.9, 0.1], [0.6, 0.4]]), [0, 1], 2, 0.25),
        (logits_of([[0.75, 0.25]] * 4), [0, 0, 0, 1], 15, 0.0),
        (torch.tensor([[1e4, 0.0], [1e4, 0.0], [0.0, 1e4], [-1e4, 1e4]]), [0, 1, 1, 1], 15, 0.25),
    ],
    ids=["by-hand", "means-within-a-bin", "calibrated", "extreme-logits"],
)
def test_calibration_error(logits, y, num_bins, expected):
    """And its bins, weighted by their counts, make it up."""
    y = torch.tensor(y)
    assert expected_calibration_error(logits, y, num_bins).item() == pytest.approx(expected, abs=1e-6)
    bins = reliability_bins(logits, y, num_bins)
    gaps = [own["count"] * abs(own["confidence"] - own["accuracy"]) for own in bins]
    assert sum(gaps) / len(y) == pytest.approx(expected, abs=1e-6)


def test_adaptive_bins_hold_equally_many():
    """Two bins by hand: confidences .6 .7 | .8 .9 with one of two correct in each."""
    logits = logits_of([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.7, 0.3]])
    y = torch.tensor([0, 1, 1, 0])
    assert adaptive_calibration_error(logits, y, num_bins=2).item() == pytest.approx(0.5 * 0.15 + 0.5 * 0.35)


@pytest.mark.parametrize("temperature", [0.2, 1.0, 20.0])
def test_temperature_of_logits_that_are_known(temperature):
    """Labels drawn from softmax(z) and logits T z: the fit finds T."""
    generator = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(20_000, 5, generator=generator, dtype=torch.float64)
    y = torch.multinomial(z.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(temperature * z, y) == pytest.approx(temperature, rel=0.05)
    scaled = temperature * z / fit_temperature(temperature * z, y)
    assert expected_calibration_error(scaled, y) < 0.02
