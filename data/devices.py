"""Tensors on their way to a GPU."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, by a copy that the caller does not wait for.

    Only page-locked memory is copied to a GPU in the background; from other memory, the copy waits for all
    work that the GPU was given before.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
