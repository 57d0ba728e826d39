"""What users hand in, checked once at the door: the loops behind it trust their tensors."""

import torch
from torch import Tensor, nn

from atjem.models.registry import JointEnergyModel


def check_inputs(model: nn.Module, x: Tensor, y: Tensor | None = None) -> None:
    """Raises ValueError, saying what was given and what is allowed, unless x and y fit the model.

    x: (B, C, H, W) floats in [0, 1]; y: (B,) int64 below the number of classes, or None.
    """
    if x.dim() != 4 or not x.is_floating_point():
        raise ValueError(f"images are {_shape(x)}; they must be (B, C, H, W) floats in [0, 1]")
    if isinstance(model, JointEnergyModel) and x.shape[1] != model.spec.channels:
        raise ValueError(f"images are {_shape(x)}; this model takes {model.spec.channels} channels")
    if x.numel() and not (x.min() >= 0 and x.max() <= 1):
        given = f"{x.min().item():.4g} to {x.max().item():.4g}"
        raise ValueError(f"pixels go from {given}; they must lie in [0, 1] (divide 8-bit images by 255)")
    if y is not None:
        _check_labels(model, len(x), y)


def _check_labels(model: nn.Module, num: int, y: Tensor) -> None:
    if y.shape != (num,) or y.dtype != torch.int64:
        raise ValueError(f"labels are {_shape(y)}; {num} images need ({num},) torch.int64")
    most = model.spec.num_classes - 1 if isinstance(model, JointEnergyModel) else None
    if num and (y.min() < 0 or (most is not None and y.max() > most)):
        given = f"{y.min().item()} to {y.max().item()}"
        raise ValueError(f"labels go from {given}; they must be 0 to {'K - 1' if most is None else most}")


def _shape(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}"
