"""Counterfactuals: within the budget, and more like the target class."""

import pytest
import torch

from atjem.balls import make_ball
from atjem.counterfactuals import counterfactual


@pytest.mark.parametrize(("norm", "eps"), [("L2", 1.0), ("Linf", 0.05)], ids=["L2", "Linf"])
def test_stays_in_budget_and_raises_the_target(norm, eps, make_model, make_images, make_labels):
    model, x, target = make_model(), make_images(), make_labels()
    images = counterfactual(model, x, target, eps=eps, num_steps=10, norm=norm)
    within = make_ball(norm, eps).project(images, x)
    torch.testing.assert_close(images, within, rtol=0, atol=1e-5)
    assert 0 <= images.min() <= images.max() <= 1
    with torch.no_grad():
        gain = (model(images) - model(x)).gather(1, target.unsqueeze(1))
    assert (gain > 0).all()


@pytest.mark.parametrize(
    ("settings", "gain"),
    [
        ({}, 0.25),  # 75 steps of eps / 25 go three radii far, so that the ball's boundary holds the result
        ({"num_steps": 5}, 5 * 0.01),
        ({"num_steps": 5, "step_size": 0.02}, 5 * 0.02),
        ({"num_steps": 0}, 0.0),
    ],
    ids=["defaults", "default-step-size", "step-size", "no-steps"],
)
def test_how_far_the_target_pixel_of_a_linear_model_goes(settings, gain, make_linear):
    x, target = torch.full((2, 1, 2, 2), 0.5), torch.tensor([1, 2])
    images = counterfactual(make_linear(torch.eye(4)), x, target, eps=0.25, **settings)
    expected = 0.5 + gain * torch.eye(4)[target].view(2, 1, 2, 2)
    torch.testing.assert_close(images, expected)
