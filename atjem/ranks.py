"""The processes that share a global batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among those that share a global batch."""

    rank: int
    num: int

    @staticmethod
    def present() -> "Ranks":
        return Ranks(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Ranks(0, 1)

    def own(self, everything: Tensor, sizes: Sequence[int]) -> Tensor:
        """This rank's part of a global batch, of which each rank has `sizes`."""
        return everything.split(list(sizes))[self.rank]

    def gather(self, own: Tensor, sizes: Sequence[int]) -> Tensor:
        """The global batch from every rank's part, (sum of sizes, ...)."""
        if self.num == 1:
            return own
        padded = own.new_zeros(max(sizes), *own.shape[1:])  # collectives want equal shapes
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in range(self.num)]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def sum(self, values: Tensor) -> Tensor:
        """Over all ranks, in place."""
        if self.num > 1:
            dist.all_reduce(values)
        return values
