"""The processes that share a global batch."""

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

    def own(self, everything: Tensor) -> Tensor:
        """This rank's part of a global batch."""
        return everything.chunk(self.num)[self.rank]

    def gather(self, own: Tensor) -> Tensor:
        """The global batch from every rank's part."""
        if self.num == 1:
            return own
        parts = [torch.empty_like(own) for _ in range(self.num)]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    def mean(self, values: Tensor) -> Tensor:
        """Over all ranks, in place."""
        if self.num > 1:
            dist.all_reduce(values)
            values /= self.num
        return values
