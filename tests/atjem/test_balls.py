"""Threat models: radii for each example, steepest steps, nearest points."""

import pytest
import torch

from atjem.balls import L2, Linf, Unbounded, make_ball


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def norms(x):
    return x.flatten(1).norm(dim=1)


def test_l2_random_start_lies_inside_for_every_example(make_images):
    x = make_images(64)
    radii = norms(L2(0.5).sample(x, rng()) - x)
    assert (radii <= 0.5 * (1 + 1e-5)).all()
    # Of a 64-dimensional ball nearly all volume is at the surface; a norm taken over the batch would divide
    # every radius by about sqrt(64).
    assert (radii > 0.5 * 0.85).all()


def test_l2_random_start_fills_the_ball_uniformly():
    x = torch.zeros(4000, 1, 2, 2, dtype=torch.float64)
    start = L2(2.0).sample(x, rng())
    volume_share = (norms(start) / 2.0) ** 4  # uniform on [0, 1] for a uniform point of a 4-ball
    for quantile in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert volume_share.quantile(quantile).item() == pytest.approx(quantile, abs=0.03)
    assert start.mean(dim=0).abs().max() < 0.06


@pytest.mark.parametrize("ball", [L2(0.5), Linf(0.1)], ids=["L2", "Linf"])
def test_random_start_does_not_depend_on_batch_neighbours(ball, make_images):
    x = make_images(8)
    others = torch.cat([x[:1], 1000 * make_images(7, seed=1)])
    assert torch.equal(ball.sample(x, rng(3))[0], ball.sample(others, rng(3))[0])


@pytest.mark.parametrize("ball", [L2(0.5), Linf(0.1)], ids=["L2", "Linf"])
def test_random_start_is_fixed_by_its_generator(ball, make_images):
    x = make_images()
    assert torch.equal(ball.sample(x, rng(3)), ball.sample(x, rng(3)))
    assert not torch.equal(ball.sample(x, rng(3)), ball.sample(x, rng(4)))


def test_linf_random_start_fills_the_interval(make_images):
    x = make_images(64)
    delta = Linf(0.1).sample(x, rng()) - x
    assert delta.abs().max() <= 0.1 + 1e-6
    assert delta.max() > 0.099
    assert delta.min() < -0.099
    assert delta.mean().abs() < 0.005


def test_unbounded_holds_every_image(make_images):
    x = 100 * make_images()
    assert torch.equal(Unbounded().sample(x, rng()), x)
    assert torch.equal(Unbounded().project(x, make_images(seed=1)), x)


@pytest.mark.parametrize(
    ("ball", "gradient", "expected"),
    [
        (L2(0.5), [0.0, 3.0, -4.0], [0.0, 0.3, -0.4]),
        (Unbounded(), [0.0, 3.0, -4.0], [0.0, 0.3, -0.4]),
        (Linf(0.1), [1e-8, -5.0, 0.0], [0.5, -0.5, 0.0]),
    ],
    ids=["L2", "Unbounded", "Linf"],
)
def test_step_hand_value(ball, gradient, expected):
    gradient, expected = (torch.tensor(row).view(1, 1, 1, 3) for row in (gradient, expected))
    torch.testing.assert_close(ball.ascend(torch.ones(1, 1, 1, 3), gradient, step_size=0.5), 1 + expected)


@pytest.mark.parametrize("ball", [L2(0.5), Unbounded()], ids=["L2", "Unbounded"])
def test_euclidean_step_has_the_same_length_for_every_example(ball, make_images):
    x = torch.zeros_like(make_images(4))
    scales = torch.tensor([1e-5, 1.0, 1e3, 1e10]).view(-1, 1, 1, 1)
    stepped = ball.ascend(x, scales * make_images(4, seed=1), step_size=0.3)
    torch.testing.assert_close(norms(stepped), torch.full((4,), 0.3), rtol=1e-4, atol=0)


@pytest.mark.parametrize("ball", [L2(0.5), Linf(0.5), Unbounded()], ids=["L2", "Linf", "Unbounded"])
def test_vanished_gradient_takes_no_step(ball, make_images):
    x = make_images()
    assert torch.equal(ball.ascend(x, torch.zeros_like(x), step_size=0.3), x)


@pytest.mark.parametrize(
    ("ball", "x", "expected"),
    [
        (L2(1.0), [3.0, 4.0], [0.6, 0.8]),
        (L2(1.0), [0.3, 0.4], [0.3, 0.4]),
        (Linf(0.125), [0.4, -2.0], [0.125, -0.125]),
        (Linf(0.125), [0.05, -0.05], [0.05, -0.05]),
    ],
    ids=["L2", "L2-inside", "Linf", "Linf-inside"],
)
def test_projection_hand_value(ball, x, expected):
    x, expected = (torch.tensor(row).view(1, 1, 1, 2) for row in (x, expected))
    torch.testing.assert_close(ball.project(0.5 + x, torch.full_like(x, 0.5)), 0.5 + expected)


@pytest.mark.parametrize("ball", [L2(0.0), Linf(0.0)], ids=["L2", "Linf"])
def test_ball_without_radius_is_its_centre(ball, make_images):
    center = make_images(seed=1)
    assert torch.equal(ball.project(make_images(), center), center)


def test_make_ball_by_name():
    assert (make_ball("L2", 0.25), make_ball("Linf", 0.25)) == (L2(0.25), Linf(0.25))


@pytest.mark.parametrize("norm", ["l2", "Unbounded", ""], ids=["lower-case", "no-norm", "empty"])
def test_unknown_norm_says_what_is_allowed(norm):
    with pytest.raises(ValueError, match=f"norm='{norm}' is unknown; use 'L2' or 'Linf'"):
        make_ball(norm, 0.25)
