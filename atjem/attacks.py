"""One attack loop for training, sampling, counterfactuals and evaluation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from atjem.balls import Ball, make_ball
from atjem.inputs import check_amounts, check_images, check_labels, check_mode
from atjem.objectives import Objective, cross_entropy, targeted_cross_entropy


@dataclass(frozen=True)
class Ascent:
    """What to attack and how; the fields are the arguments of `pgd`."""

    x: Tensor
    y: Tensor
    objective: Objective
    ball: Ball
    step_size: float
    num_steps: int
    x_start: Tensor | None = None

    def start(self) -> Tensor:
        if self.x_start is None:
            return self.x.detach().clone()
        return self.ball.project(self.x_start, self.x).clamp(0, 1).detach()

    def advance(self, x_t: Tensor, gradient: Tensor) -> Tensor:
        """One step of projected ascent, eq. 2.1 of Madry et al. 2018, kept in [0, 1]."""
        ascended = self.ball.ascend(x_t, gradient, self.step_size)
        return self.ball.project(ascended, self.x.detach()).clamp_(0, 1)


class Attacked(NamedTuple):
    """Where an attack ended; the logits (B, K) where it began and the last gradients' L2 norms (B,).

    The latter are None when it took no step.
    """

    x: Tensor
    logits_start: Tensor | None
    gradient_norms: Tensor | None


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
    ascent = Ascent(x, y, objective, ball, step_size, num_steps, x_start)
    x_t = ascent.start()
    for _ in range(num_steps):
        ((gradient, _logits),) = _gradients(model, [(ascent, x_t)])
        x_t = ascent.advance(x_t, gradient)
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
    start. Parameter gradients are untouched; the caller chooses train or eval mode. Raises ValueError for
    tensors that do not fit.
    """
    check_images(model, x)
    check_labels(model, x, y)
    check_amounts(num_steps=num_steps, step_size=step_size)
    if x_start is not None and x_start.shape != x.shape:
        raise ValueError(f"x_start is {tuple(x_start.shape)}; it must be like x, {tuple(x.shape)}")
    ascent = Ascent(x, y, objective, ball, step_size, num_steps, x_start)
    return pgd_together(model, [ascent])[0].x


def attack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "L2",
    num_steps: int = 20,
    step_size: float | None = None,
    targeted: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Images near x that the classifier gets wrong: PGD on the cross-entropy (Madry et al. 2018).

    x: (B, C, H, W) float32 in [0, 1]; y: (B,) int64, the true classes, or with `targeted` the classes to be
    seen instead. eps in pixel units, norm 'L2' or 'Linf'; `step_size` defaults to 2.5 * eps / num_steps; a
    `generator` starts at a random point of the ball. Returns images like x; ValueError for other input.
    """
    check_mode(model)
    ball = make_ball(norm, eps)
    check_amounts(num_steps=num_steps)
    return pgd(
        model,
        x,
        y,
        objective=targeted_cross_entropy if targeted else cross_entropy,
        ball=ball,
        step_size=2.5 * eps / max(1, num_steps) if step_size is None else step_size,
        num_steps=num_steps,
        x_start=None if generator is None else ball.sample(x, generator),
    )


def pgd_together(model: nn.Module, ascents: Sequence[Ascent]) -> list[Attacked]:
    """Several attacks on one model, in one batch for the steps that they have in common.

    Each ends where it would alone, as long as examples do not meet inside the model (BatchNorm in eval mode).
    """
    points = [ascent.start() for ascent in ascents]
    first: list[Tensor | None] = [None] * len(ascents)
    last: list[Tensor | None] = [None] * len(ascents)
    for step in range(max((ascent.num_steps for ascent in ascents), default=0)):
        active = [index for index, ascent in enumerate(ascents) if step < ascent.num_steps]
        found = _gradients(model, [(ascents[index], points[index]) for index in active])
        for index, (gradient, logits) in zip(active, found, strict=True):
            points[index] = ascents[index].advance(points[index], gradient)
            if step == 0:
                first[index] = logits.clone()  # a replayed CUDA graph would write over them
            if step == ascents[index].num_steps - 1:
                last[index] = torch.linalg.vector_norm(gradient, dim=(1, 2, 3))
    return [Attacked(*found) for found in zip(points, first, last, strict=True)]


@torch.enable_grad()
def _gradients(model: nn.Module, at: Sequence[tuple[Ascent, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """d objective / dx and the logits of each ascent at its point; parameters' gradients stay as they are."""
    sizes = [len(x_t) for _, x_t in at]
    x = at[0][1].detach() if len(at) == 1 else torch.cat([x_t for _, x_t in at])
    logits = model(x.requires_grad_(True))
    parts = logits.split(sizes)
    values = [ascent.objective(part, ascent.y).sum() for (ascent, _), part in zip(at, parts, strict=True)]
    (gradient,) = torch.autograd.grad(sum(values[1:], values[0]), x)
    return list(zip(gradient.split(sizes), logits.detach().split(sizes), strict=True))
