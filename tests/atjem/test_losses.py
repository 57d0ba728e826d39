"""Training losses against hand-computed values; their signs; extreme logits."""

import math

import pytest
import torch

from atjem.energies import energy_from_logits
from atjem.losses import classifier_loss, energy_loss, r1_penalty

EXTREME = torch.tensor([[1e4, 0.0], [-1e4, 0.0], [1e4, -1e4], [-1e4, -1e4]])


def test_classifier_loss_hand_values():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]], dtype=torch.float64)
    losses = classifier_loss(logits, torch.tensor([0, 1]))
    assert losses.tolist() == pytest.approx([math.log(4), math.log(4 / 3)])


@pytest.mark.parametrize(
    ("logit", "expected"),
    [(0.0, [math.log(3 / 2), math.log(3)]), (-math.log(2), [math.log(2)] * 2)],
    ids=["sigmoid-two-thirds", "energy-zero"],
)
def test_energy_loss_hand_values_real_first(logit, expected):
    logits = torch.full((1, 2), logit, dtype=torch.float64)
    assert energy_loss(logits, logits).tolist() == pytest.approx(expected)


def test_energy_loss_falls_with_the_energy_of_real_and_rises_with_that_of_contrastive_images():
    logits_real = torch.zeros(3, 2, requires_grad=True)
    logits_contrast = torch.zeros(3, 2, requires_grad=True)
    energy_loss(logits_real, logits_contrast).sum().backward()
    assert (logits_real.grad < 0).all()
    assert (logits_contrast.grad > 0).all()


def test_classifier_loss_falls_with_the_label_logit():
    logits = torch.zeros(1, 3, requires_grad=True)
    classifier_loss(logits, torch.tensor([1])).sum().backward()
    assert torch.equal(logits.grad.sign(), torch.tensor([[1.0, -1.0, 1.0]]))


def test_classifier_loss_at_extreme_logits():
    logits = EXTREME.clone().requires_grad_(True)
    losses = classifier_loss(logits, torch.tensor([0, 0, 1, 1]))
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([0, 1e4, 2e4, math.log(2)])
    assert logits.grad.isfinite().all()


def test_energy_loss_at_extreme_logits():
    logits_real, logits_contrast = (EXTREME.clone().requires_grad_(True) for _ in range(2))
    losses = energy_loss(logits_real, logits_contrast)
    losses.sum().backward()
    real = [0, math.log(2), 0, 1e4 - math.log(2)]
    contrast = [1e4, math.log(2), 1e4, 0]
    assert losses.tolist() == pytest.approx(real + contrast, rel=1e-6, abs=1e-6)
    assert logits_real.grad.isfinite().all()
    assert logits_contrast.grad.isfinite().all()


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        ([[1.0, 2.0, 3.0, 4.0]], 15.0),
        # At x = 0 both classes are equally likely: the gradient of logsumexp is the mean of the rows.
        ([[2.0, 0.0, 0.0, 0.0], [0.0, 4.0, 0.0, 0.0]], 0.5 * (1 + 4)),
    ],
    ids=["one-logit", "posterior"],
)
def test_r1_penalty_of_a_linear_model(weight, expected, make_linear):
    penalty = r1_penalty(make_linear(torch.tensor(weight)), torch.zeros(3, 1, 2, 2))
    assert penalty.tolist() == pytest.approx([expected] * 3)


def test_r1_penalty_is_one_value_for_each_image(make_model, make_images):
    model, x = make_model(dtype=torch.float64), make_images(dtype=torch.float64)
    together = r1_penalty(model, x)
    alone = torch.cat([r1_penalty(model, image.unsqueeze(0)) for image in x])
    assert (together > 0).all()
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=0)
    assert not x.requires_grad


@pytest.mark.parametrize(
    "function",
    [
        lambda logits: classifier_loss(logits, torch.tensor([0, 1, 2, 0])),
        lambda logits: energy_loss(logits[:2], logits[2:]),
        energy_from_logits,
        lambda logits: energy_from_logits(logits, torch.tensor([0, 1, 2, 0])),
    ],
    ids=["classifier_loss", "energy_loss", "marginal_energy", "joint_energy"],
)
def test_gradients_are_those_of_finite_differences(function):
    logits = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(function, logits.requires_grad_())


def test_gradient_of_the_r1_penalty_is_that_of_finite_differences():
    """With respect to the weights: a derivative of a derivative."""
    x = torch.rand(2, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    class Quadratic(torch.nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.weight = weight

        def forward(self, images):
            return images.flatten(1).square() @ self.weight.T

    weight = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert torch.autograd.gradcheck(lambda own: r1_penalty(Quadratic(own), x), weight.requires_grad_())
