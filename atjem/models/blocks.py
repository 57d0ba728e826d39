"""Residual blocks one after another, with or without keeping what lies between their ends in memory."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run_blocks(blocks: Iterable[nn.Module], x: Tensor, *, recompute: bool) -> Tensor:
    """x through each block. With `recompute`, only blocks' inputs are kept, and the backward pass runs each
    block again (activation checkpointing, Chen et al. 2016, arXiv 1604.06174): a third more time.

    A block whose BatchNorm gathers statistics is never run twice: it would count its images twice.
    """
    for block in blocks:
        if recompute and torch.is_grad_enabled() and not _gathers_statistics(block):
            x = checkpoint(block, x, use_reentrant=False)
        else:
            x = block(x)
    return x


def _gathers_statistics(block: nn.Module) -> bool:
    return any(isinstance(module, nn.BatchNorm2d) and module.training for module in block.modules())
