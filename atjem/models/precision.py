"""Parts of a network that stay in full precision under autocast."""

import torch
from torch import Tensor, nn


def full_precision(stem: nn.Module, x: Tensor) -> Tensor:
    """Runs a network's first layers outside autocast: a PGD step is finer than bf16 resolves."""
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = stem(x if x.dtype == torch.float64 else x.float())
    return out
