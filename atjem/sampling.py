"""Generation: gradient ascent on the energy from out-of-distribution seeds."""

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn

from atjem.attacks import pgd_trajectory
from atjem.balls import Unbounded
from atjem.inputs import check_amounts, check_inputs, check_labels
from atjem.objectives import MODES


def quantize(x: Tensor) -> Tensor:
    """Images in [0, 1] as the 8-bit images that a sample is by definition. Returns uint8."""
    return x.mul(255).round_().clamp_(0, 255).to(torch.uint8)


def sample_trajectory(
    model: nn.Module, seeds: Tensor, labels: Tensor, *, step_size: float, num_steps: int, mode: str = "joint"
) -> Iterator[Tensor]:
    """Yields the images after 1, 2, ... `num_steps` steps from the seeds; arguments as in `sample`."""
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} is unknown; use {' or '.join(map(repr, MODES))}")
    return pgd_trajectory(
        model,
        seeds,
        labels,
        objective=MODES[mode],
        ball=Unbounded(),
        step_size=step_size,
        num_steps=num_steps,
    )


def sample_at(
    model: nn.Module,
    seeds: Tensor,
    labels: Tensor,
    *,
    step_size: float,
    at: Collection[int],
    mode: str = "joint",
) -> dict[int, Tensor]:
    """The images that one trajectory passes through at each step count in `at`.

    seeds: (B, C, H, W) float32 in [0, 1]; labels: (B,) int64. Returns {steps: (B, C, H, W) float32}.
    A trajectory of max(at) steps contains every shorter one, so candidates cost no extra attack.
    """
    images = {0: seeds.detach().clone()} if 0 in at else {}
    trajectory = sample_trajectory(model, seeds, labels, step_size=step_size, num_steps=max(at), mode=mode)
    for step, x_t in enumerate(trajectory, start=1):
        if step in at:
            images[step] = x_t
    return images


def sample(
    model: nn.Module,
    seeds: Tensor,
    labels: Tensor,
    *,
    step_size: float,
    num_steps: int,
    mode: str = "joint",
) -> Tensor:
    """Generates one image from each seed: `num_steps` of gradient ascent of length `step_size`.

    seeds: (B, C, H, W) float32 in [0, 1], out-of-distribution images or noise; labels: (B,) int64, the
    class to generate (not used when `mode` is 'marginal'). Returns (B, C, H, W) float32 in [0, 1].
    Raises ValueError for other input.
    """
    check_inputs(model, seeds)
    check_labels(model, seeds, labels)
    check_amounts(num_steps=num_steps, step_size=step_size)
    return sample_at(model, seeds, labels, step_size=step_size, at=[num_steps], mode=mode)[num_steps]
