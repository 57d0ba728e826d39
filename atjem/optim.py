"""Optimisers and learning-rate schedules as published."""

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

SCHEDULES = ("constant", "cosine", "piecewise")


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    *,
    name: str,
    lr: float,
    momentum: float,
    weight_decay: float,
    betas: tuple[float, float],
) -> Optimizer:
    """'sgd' is SGD with Nesterov momentum, 'adamw' is AdamW. Raises ValueError for another name."""
    if name == "sgd":
        return SGD(parameters, lr=lr, momentum=momentum, nesterov=momentum > 0, weight_decay=weight_decay)
    if name == "adamw":
        return AdamW(parameters, lr=lr, betas=betas, weight_decay=weight_decay)
    raise ValueError(f"optimizer name={name!r} is unknown; use 'sgd' or 'adamw'")


def lr_factor(step: int, *, schedule: str, warmup_steps: int, total_steps: int) -> float:
    """What the base rate is multiplied with at `step`: linear warm-up, then the schedule.

    'piecewise' divides by 10 at one half and again at three quarters of the run.
    """
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    progress = step / max(1, total_steps)
    if schedule == "cosine":
        return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    if schedule == "piecewise":
        return warmup * 0.1 ** ((progress >= 0.5) + (progress >= 0.75))
    if schedule == "constant":
        return warmup
    raise ValueError(f"schedule={schedule!r} is unknown; use {', '.join(map(repr, SCHEDULES))}")


def make_schedule(
    optimizer: Optimizer, *, schedule: str, warmup_steps: int, total_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """A scheduler to step once after each optimiser step."""
    return LambdaLR(
        optimizer,
        lambda step: lr_factor(step, schedule=schedule, warmup_steps=warmup_steps, total_steps=total_steps),
    )
