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


def test_default_steps_of_a_linear_model_reach_the_boundary(make_linear):
    # 75 steps of eps / 25 go three radii far, so that the ball's boundary holds the result.
    x = torch.full((2, 1, 2, 2), 0.5)
    images = counterfactual(make_linear(torch.eye(4)), x, torch.tensor([1, 2]), eps=0.25)
    expected = torch.tensor([[0.5, 0.75, 0.5, 0.5], [0.5, 0.5, 0.75, 0.5]]).view(2, 1, 2, 2)
    torch.testing.assert_close(images, expected)


def test_default_step_size_is_a_25th_of_the_budget(make_linear):
    x = torch.full((1, 1, 2, 2), 0.5)
    settings = {"target": torch.tensor([0]), "eps": 0.25, "num_steps": 5}
    images = counterfactual(make_linear(torch.eye(4)), x, **settings)
    assert images[0, 0, 0, 0].item() == pytest.approx(0.5 + 5 * 0.01)
    explicit = counterfactual(make_linear(torch.eye(4)), x, **settings, step_size=0.02)
    assert explicit[0, 0, 0, 0].item() == pytest.approx(0.5 + 5 * 0.02)


def test_no_steps_is_the_image(make_model, make_images, make_labels):
    assert torch.equal(
        counterfactual(make_model(), make_images(), make_labels(), eps=1.0, num_steps=0), make_images()
    )


def test_unknown_norm_says_what_is_allowed(make_model, make_images, make_labels):
    with pytest.raises(ValueError, match="norm='L1' is unknown"):
        counterfactual(make_model(), make_images(), make_labels(), eps=1.0, norm="L1")
