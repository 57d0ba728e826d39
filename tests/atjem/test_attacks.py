"""The attack loop and what it climbs: it stays inside, it climbs, and it leaves no trace on the model."""

import math

import pytest
import torch

from atjem.attacks import pgd, pgd_trajectory
from atjem.balls import L2, Linf, Unbounded
from atjem.objectives import MODES, cross_entropy, joint, marginal, targeted_cross_entropy

BALLS = pytest.mark.parametrize("ball", [L2(0.5), Linf(0.03), Unbounded()], ids=["L2", "Linf", "Unbounded"])
OBJECTIVES = pytest.mark.parametrize(
    "objective",
    [cross_entropy, targeted_cross_entropy, joint, marginal],
    ids=["cross_entropy", "targeted_cross_entropy", "joint", "marginal"],
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


def is_inside(ball, x_adv, x):
    delta = (x_adv - x).flatten(1)
    if isinstance(ball, L2):
        return bool((delta.norm(dim=1) <= ball.eps * (1 + 1e-5)).all())
    if isinstance(ball, Linf):
        return bool((delta.abs() <= ball.eps + 1e-6).all())
    return True


@BALLS
@OBJECTIVES
def test_stays_in_ball_and_pixel_range(ball, objective, attack, make_images):
    x = make_images()
    x_adv = attack(ball, objective=objective, num_steps=8)
    assert x_adv.shape == x.shape
    assert x_adv.dtype == x.dtype
    assert is_inside(ball, x_adv, x)
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@BALLS
@OBJECTIVES
def test_raises_its_objective_for_every_image(ball, objective, attack, make_model, make_images, make_labels):
    model, x, y = make_model(), make_images(), make_labels()
    x_adv = attack(ball, objective=objective)
    assert (objective(model(x_adv), y) > objective(model(x), y)).all()


@BALLS
def test_zero_steps_is_the_identity(ball, attack, make_images):
    assert torch.equal(attack(ball, num_steps=0), make_images())


def test_zero_steps_from_a_start_is_that_start_brought_inside(attack, make_images):
    x = make_images()
    x_adv = attack(L2(0.5), num_steps=0, x_start=x + 1.0)
    assert is_inside(L2(0.5), x_adv, x)
    assert x_adv.max() <= 1
    assert not torch.equal(x_adv, x)


@BALLS
def test_random_start_ends_inside(ball, attack, make_images):
    x = make_images()
    x_start = ball.sample(x, torch.Generator().manual_seed(1))
    x_adv = attack(ball, x_start=x_start)
    assert is_inside(ball, x_adv, x)
    assert 0 <= x_adv.min() <= x_adv.max() <= 1


def test_gradients_that_are_none_stay_none(attack, make_model):
    model = make_model()
    attack(L2(0.5), model=model)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_gradients_that_exist_keep_their_values(attack, make_model):
    model = make_model()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    attack(L2(0.5), model=model)
    assert all((parameter.grad == 7.0).all() for parameter in model.parameters())


@BALLS
@pytest.mark.parametrize("num_steps", [0, 2], ids=["no-steps", "two-steps"])
def test_result_is_detached_and_the_images_are_untouched(ball, num_steps, attack, make_images):
    x = make_images()
    x_adv = attack(ball, num_steps=num_steps, x=x)
    assert not x_adv.requires_grad
    assert x_adv.grad_fn is None
    assert not x.requires_grad
    assert torch.equal(x, make_images())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_leaves_the_mode_to_the_caller(training, attack, make_model):
    model = make_model().train(training)
    attack(L2(0.5), model=model)
    assert model.training is training


def test_eval_mode_leaves_running_statistics_alone(attack, make_model):
    model = make_model()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    attack(L2(0.5), model=model)
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
    images = [point.detach().clone() for point in points]
    assert len(images) == 4
    assert all(is_inside(ball, image, make_images()) for image in images)
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


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (joint, [0.0, math.log(3)]),
        (marginal, [math.log(4), math.log(4)]),
        (cross_entropy, [math.log(4), math.log(4 / 3)]),
        (targeted_cross_entropy, [-math.log(4), -math.log(4 / 3)]),
    ],
    ids=["joint", "marginal", "cross_entropy", "targeted_cross_entropy"],
)
def test_objective_hand_values(objective, expected):
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]], dtype=torch.float64)
    values = objective(logits, torch.tensor([0, 1]))
    assert values.tolist() == pytest.approx(expected)


def test_modes_are_named_after_their_energies():
    assert sorted(MODES) == ["joint", "marginal"]
    assert MODES["joint"] is joint
    assert MODES["marginal"] is marginal
