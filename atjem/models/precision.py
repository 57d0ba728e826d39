"""What each precision means, and the parts of a network that stay in full precision under autocast."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from atjem.models.registry import JointEnergyModel, ModelSpec


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


@contextmanager
def tf32_as_in(precision: str) -> Iterator[None]:
    """`allow_tf32` for a block of code. The backward passes of a forward pass in it belong in it too."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    allow_tf32(precision)
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def autocast(precision: str, device_type: str) -> AbstractContextManager[Any]:
    """Where a model runs: bf16 casts convolutions and linear layers, fp32 and tf32 nothing."""
    if precision == "bf16":
        return torch.autocast(device_type, dtype=torch.bfloat16)
    return nullcontext()


class InPrecision(nn.Module):
    """A network whose forward passes run in one precision: fp32, tf32 or bf16. Logits are never bf16."""

    def __init__(self, network: "JointEnergyModel", precision: str) -> None:
        super().__init__()
        self.network, self.precision = network, precision

    @property
    def spec(self) -> "ModelSpec":
        return self.network.spec

    def forward(self, x: Tensor) -> Tensor:
        with tf32_as_in(self.precision), autocast(self.precision, x.device.type):
            logits: Tensor = self.network(x)
        return logits
