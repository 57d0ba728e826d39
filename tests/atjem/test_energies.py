"""One sign convention: low energy means like the data."""

import math

import pytest
import torch

from atjem.energies import class_logit, energy, energy_from_logits

LOGITS = torch.tensor([[0.0, math.log(3)], [5.0, 5.0]], dtype=torch.float64)


def test_hand_values():
    y = torch.tensor([1, 0])
    assert class_logit(LOGITS, y).tolist() == pytest.approx([math.log(3), 5.0])
    assert energy_from_logits(LOGITS, y).tolist() == pytest.approx([-math.log(3), -5.0])
    assert energy_from_logits(LOGITS).tolist() == pytest.approx([-math.log(4), -5.0 - math.log(2)])


def test_marginal_energy_sums_out_the_classes():
    joints = torch.stack([energy_from_logits(LOGITS, torch.tensor([k, k])) for k in range(2)])
    torch.testing.assert_close(torch.exp(-energy_from_logits(LOGITS)), torch.exp(-joints).sum(dim=0))


@pytest.mark.parametrize("scale", [1e4, -1e4], ids=["large", "small"])
def test_extreme_logits_stay_finite(scale):
    assert energy_from_logits(torch.full((1, 2), scale)).item() == pytest.approx(-scale - math.log(2))


def test_energy_of_a_model_reads_its_logits(make_model, make_images, make_labels):
    model, x, y = make_model(), make_images(), make_labels()
    logits = model(x)
    assert torch.equal(energy(model, x), -logits.logsumexp(dim=1))
    assert torch.equal(energy(model, x, y), -logits[torch.arange(len(y)), y])
