"""BatchNorm over the global batch: statistics that do not depend on the number of workers."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F


class _SyncedNorm(torch.autograd.Function):
    """Normalisation by the mean and the variance over all ranks' images, and its exact gradient.

    Each rank tells its mean, variance and number of pixels, 2 C + 1 numbers; the backward pass sums 2 C.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x: (B, C, H, W). Returns the normalised images, mean (C,), biased variance (C,), pixels ()."""
        mean, var, count = _over_ranks(x if x.dtype == torch.float64 else x.float())
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        y = F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)
        ctx.mark_non_differentiable(mean, var, count)
        return y, mean, var, count

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, var, count = ctx.saved_tensors
        scale = torch.rsqrt(var + ctx.eps)
        normal = (x - _of_channels(mean)) * _of_channels(scale)
        own = torch.cat([upstream.sum((0, 2, 3)), (upstream * normal).sum((0, 2, 3))]).to(mean.dtype)
        everyone = own.clone()
        dist.all_reduce(everyone)
        shift, slope = (_of_channels(part / count) for part in everyone.chunk(2))
        grad_x = _of_channels(weight * scale) * (upstream - shift - normal * slope)
        grad_bias, grad_weight = own.chunk(2)
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None


class SyncedBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose batch, in training, is the global one (Ioffe & Szegedy 2015, over all ranks).

    In eval mode, and in a process alone, it is BatchNorm2d. Every rank must take part in each forward.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        y, mean, var, count = _SyncedNorm.apply(x, self.weight, self.bias, self.eps)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = var * (count / (count - 1).clamp(min=1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked += 1
        return y


def synchronise_norms(model: nn.Module) -> None:
    """Every BatchNorm2d of a model takes its statistics over all ranks from now on; weights stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm


def _over_ranks(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), biased variance (C,) and pixels () of all ranks' images (Chan et al. 1979)."""
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    own = torch.cat([mean, var, mean.new_full((1,), x.numel() // x.shape[1])])
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own)
    everyone = torch.stack(parts)
    (means, variances), counts = everyone[:, :-1].chunk(2, dim=1), everyone[:, -1:]
    count = counts.sum()
    mean = (counts * means).sum(0) / count
    var = (counts * (variances + (means - mean).square())).sum(0) / count
    return mean, var, count


def _of_channels(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)
