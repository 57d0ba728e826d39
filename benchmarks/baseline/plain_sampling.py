"""Sampling written down as it is told: NCHW, the network as it was trained, one step after another."""

import torch
from torch import Tensor

from atjem.models.registry import JointEnergyModel


def plain_sampling(
    model: JointEnergyModel,
    x: Tensor,
    y: Tensor,
    step_size: float,
    num_steps: int,
    *,
    through_parameters: bool,
) -> Tensor:
    """`num_steps` of ascent of f(x)[y]. through_parameters: by backward(), which fills theirs too."""
    x_t = x.clone()
    for _ in range(num_steps):
        x_t = x_t.detach().requires_grad_(True)
        score = model(x_t)[torch.arange(len(y)), y].sum()
        if through_parameters:
            model.zero_grad()
            score.backward()
            gradient = x_t.grad
        else:
            (gradient,) = torch.autograd.grad(score, x_t)
        assert gradient is not None
        norm = gradient.view(len(x), -1).norm(dim=1).view(-1, 1, 1, 1)
        x_t = (x_t.detach() + step_size * gradient / (norm + 1e-10)).clamp(0, 1)
    return x_t.detach()
