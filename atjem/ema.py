"""Exponential moving average of the weights, with the published warm-up."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


def ema_decay(num_updates: int, decay: float) -> float:
    """min(decay, (1 + n) / (10 + n)) after n updates: young averages forget their start quickly."""
    return min(decay, (1 + num_updates) / (10 + num_updates))


def make_ema(model: nn.Module, decay: float) -> AveragedModel:
    """An averaged copy of `model`, buffers (running statistics) included; `.module` is the model to use.

    The first update takes the weights as they are.
    """

    def average(averaged: Tensors, current: Tensors, num_averaged: Tensor | int) -> None:
        weight = 1 - ema_decay(int(num_averaged), decay)
        if averaged[0].is_floating_point():  # one call for each device and dtype
            torch._foreach_lerp_(averaged, current, weight)
        else:
            torch._foreach_copy_(averaged, current)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
