"""One attack loop for training, sampling, counterfactuals and evaluation."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from atjem.balls import Ball
from atjem.objectives import Objective


def pgd_trajectory(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    objective: Objective,
    ball: Ball,
    step_size: float,
    num_steps: int,
    x_start: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yields x_1, x_2, ... x_num_steps, detached, of projected gradient ascent; arguments as in `pgd`."""
    x, x_t = x.detach(), _start(x, ball, x_start)
    for _ in range(num_steps):
        gradient = _gradient(model, x_t, y, objective)
        x_t = ball.project(ball.ascend(x_t, gradient, step_size), x).clamp_(0, 1)
        yield x_t


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    objective: Objective,
    ball: Ball,
    step_size: float,
    num_steps: int,
    x_start: Tensor | None = None,
) -> Tensor:
    """Projected gradient ascent on `objective` inside `ball` around x (Madry et al. 2018, eq. 2.1).

    x: (B, C, H, W) float32 in [0, 1]; y: (B,) int64; `x_start` is where to begin (default: x itself; a
    random start is `ball.sample(x, generator)`). Returns a detached tensor like x; with zero steps, the
    start. Parameter gradients are untouched; the caller chooses train or eval mode.
    """
    x_t = _start(x, ball, x_start)
    for x_t in pgd_trajectory(  # noqa: B007 - the last point is what we want
        model, x, y, objective=objective, ball=ball, step_size=step_size, num_steps=num_steps, x_start=x_start
    ):
        pass
    return x_t


def _start(x: Tensor, ball: Ball, x_start: Tensor | None) -> Tensor:
    if x_start is None:
        return x.detach().clone()
    return ball.project(x_start, x).clamp(0, 1).detach()


@torch.enable_grad()
def _gradient(model: nn.Module, x: Tensor, y: Tensor, objective: Objective) -> Tensor:
    """d objective / dx for each example; parameters' gradients stay as they are."""
    x = x.detach().requires_grad_(True)
    return torch.autograd.grad(objective(model(x), y).sum(), x)[0]
