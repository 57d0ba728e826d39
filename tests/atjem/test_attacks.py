"""The attack loop and what it climbs: it stays inside, it climbs, and it leaves no trace on the model."""

import pytest
import torch

from atjem.attacks import pgd, pgd_trajectory
from atjem.balls import L2, Linf, Unbounded
from atjem.objectives import cross_entropy, joint, marginal, targeted_cross_entropy

BALLS = pytest.mark.parametrize("ball", [L2(0.5), Linf(0.03), Unbounded()], ids=["L2", "Linf", "Unbounded"])
OBJECTIVES = pytest.mark.parametrize(
    "objective",
    [cross_entropy, targeted_cross_entropy, joint, marginal],
)
STEP_SIZE = {L2: 0.2, Linf: 0.01, Unbounded: 0.2}


@pytest.fixture
def attack(make_model, make_images, make_labels):
    """Attacks the tiny model on six images; whatever is not given is left at a sensible value."""

    def run(ball, *, objective=cross_entropy, num_steps=5, x_start=None, model=None, x=None):
        return pgd(
            make_model() if model is None else model,
            make_images() if x is None else x,
            make_labels(),
            objective=objective,
            ball=ball,
            step_size=STEP_SIZE[type(ball)],
            num_steps=num_steps,
            x_start=x_start,
        )

    return run


def assert_inside(ball, x_adv, x):
    """In the ball and in [0, 1]."""
    delta = (x_adv - x).flatten(1)
    if isinstance(ball, L2):
        assert (delta.norm(dim=1) <= ball.eps * (1 + 1e-5)).all()
    if isinstance(ball, Linf):
        assert (delta.abs() <= ball.eps + 1e-6).all()
    assert 0 <= x_adv.min() <= x_adv.max() <= 1


@BALLS
@OBJECTIVES
def test_stays_in_ball_and_raises_its_objective(
    ball, objective, attack, make_model, make_images, make_labels
):
    model, x, y = make_model(), make_images(), make_labels()
    x_adv = attack(ball, objective=objective, num_steps=8)
    assert (x_adv.shape, x_adv.dtype) == (x.shape, x.dtype)
    assert_inside(ball, x_adv, x)
    assert (objective(model(x_adv), y) > objective(model(x), y)).all()


@BALLS
def test_zero_steps_end_where_they_start(ball, attack, make_images):
    x = make_images()
    assert torch.equal(attack(ball, num_steps=0), x)
    outside = attack(ball, num_steps=0, x_start=x + 1.0)
    assert_inside(ball, outside, x)
    assert not torch.equal(outside, x)
    start = ball.sample(x, torch.Generator().manual_seed(1))
    assert_inside(ball, attack(ball, x_start=start), x)


@pytest.mark.parametrize("gradient", [None, 7.0], ids=["none", "some"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_model_and_images_are_left_as_they_were(training, gradient, attack, make_model, make_images):
    model, x = make_model().train(training), make_images()
    for parameter in model.parameters():
        parameter.grad = None if gradient is None else torch.full_like(parameter, gradient)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    x_adv = attack(L2(0.5), model=model, x=x)
    assert not x_adv.requires_grad
    assert not x.requires_grad
    assert torch.equal(x, make_images())
    assert model.training is training
    for parameter in model.parameters():
        assert parameter.requires_grad
        assert parameter.grad is None if gradient is None else (parameter.grad == gradient).all()
    if not training:
        assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@BALLS
def test_last_point_of_the_trajectory_is_the_attack(ball, attack, make_model, make_images, make_labels):
    points = pgd_trajectory(
        make_model(),
        make_images(),
        make_labels(),
        objective=cross_entropy,
        ball=ball,
        step_size=STEP_SIZE[type(ball)],
        num_steps=4,
    )
    images = [point.clone() for point in points]
    assert len(images) == 4
    for num_steps, image in enumerate(images, start=1):
        assert torch.equal(image, attack(ball, num_steps=num_steps))


@BALLS
def test_each_image_is_attacked_by_itself(ball, make_model, make_images, make_labels):
    model, x, y = make_model(dtype=torch.float64), make_images(dtype=torch.float64), make_labels()
    settings = {"objective": cross_entropy, "ball": ball, "step_size": 0.1, "num_steps": 3}
    together = pgd(model, x, y, **settings)
    alone = torch.cat([pgd(model, x[i : i + 1], y[i : i + 1], **settings) for i in range(len(x))])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)


def test_joint_ascent_of_a_linear_model_is_a_straight_line(make_linear):
    weight = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0]])
    x = torch.full((2, 1, 2, 2), 0.5)
    x_adv = pgd(
        make_linear(weight),
        x,
        torch.tensor([0, 1]),
        objective=joint,
        ball=Unbounded(),
        step_size=0.1,
        num_steps=3,
    )
    expected = torch.tensor([[0.68, 0.74, 0.5, 0.5], [0.5, 0.5, 0.2, 0.5]]).view(2, 1, 2, 2)
    torch.testing.assert_close(x_adv, expected)
