"""What each precision means, and the parts of a network that stay in full precision under autocast."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def full_precision(stem: nn.Module, x: Tensor) -> Tensor:
    """Runs a network's first layers outside autocast: a PGD step is finer than bf16 resolves."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind):  # shapes without values, on the meta device
        return stem(x)
    with torch.autocast(kind, enabled=False):
        out: Tensor = stem(x if x.dtype == torch.float64 else x.float())
    return out


def allow_tf32(precision: str) -> None:
    """Lets this process's matrix products and convolutions round to TF32, unless `precision` is fp32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "fp32"


def autocast(precision: str, device_type: str) -> AbstractContextManager[Any]:
    """Where a model runs: bf16 casts convolutions and linear layers, fp32 and tf32 nothing."""
    if precision == "bf16":
        return torch.autocast(device_type, dtype=torch.bfloat16)
    return nullcontext()
