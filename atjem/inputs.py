"""What users hand in, checked once at the door: the loops behind it trust their tensors."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from atjem.models.registry import JointEnergyModel


def check_inputs(model: nn.Module, x: Tensor, y: Tensor | None = None) -> None:
    """Raises ValueError, saying what was given and what is allowed, unless x and y fit the model.

    x: (B, C, H, W) floats in [0, 1], of the model's own precision; y: (B,) int64 below the number of classes,
    or None. A model whose BatchNorm is in train mode is refused: images would depend on each other.
    """
    check_mode(model)
    check_images(model, x)
    if y is not None:
        check_labels(model, x, y)


def check_mode(model: nn.Module) -> None:
    """Raises ValueError where statistics would be gathered from what is only looked at."""
    if any(module.training for module in model.modules() if isinstance(module, _BatchNorm)):
        raise ValueError("the model is in train mode; call model.eval() first")


def check_images(model: nn.Module, x: Tensor) -> None:
    if not isinstance(x, Tensor) or x.dim() != 4 or not x.is_floating_point():
        raise ValueError(f"images are {_shape(x)}; they must be a tensor (B, C, H, W) of floats in [0, 1]")
    own = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    if x.dtype != own:
        raise ValueError(f"images are {_shape(x)}; this model computes in {own}")
    if isinstance(model, JointEnergyModel) and x.shape[1] != model.spec.channels:
        raise ValueError(f"images are {_shape(x)}; this model takes {model.spec.channels} channels")
    if x.numel() and not (x.min() >= 0 and x.max() <= 1):
        given = f"{x.min().item():.4g} to {x.max().item():.4g}"
        raise ValueError(f"pixels go from {given}; they must lie in [0, 1] (divide 8-bit images by 255)")


def check_labels(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """One class for each image."""
    if not isinstance(y, Tensor) or y.shape != (len(x),) or y.dtype != torch.int64:
        raise ValueError(f"labels are {_shape(y)}; {len(x)} images need ({len(x)},) torch.int64")
    most = model.spec.num_classes - 1 if isinstance(model, JointEnergyModel) else None
    if len(x) and (y.min() < 0 or (most is not None and y.max() > most)):
        given = f"{y.min().item()} to {y.max().item()}"
        raise ValueError(f"labels go from {given}; they must be 0 to {'K - 1' if most is None else most}")


def check_amounts(*, num_steps: int, **lengths: float) -> None:
    """Raises ValueError unless `num_steps` is a whole number and lengths are finite, none of them below 0."""
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 0:
        raise ValueError(f"num_steps={num_steps!r} is no number of steps; use 0, 1, 2, ...")
    for name, length in lengths.items():
        if not is_length(length) or math.isinf(length):
            raise ValueError(f"{name}={length!r} is no length; use a finite number of at least 0")


def is_length(value: Any) -> bool:
    """Whether a value is a number of at least 0, infinity included."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.dtype}"
    return f"of type {type(value).__name__}"
