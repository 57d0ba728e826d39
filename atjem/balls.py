"""Threat models: where an attack may start, how it steps, and where it has to stay.

A threat model is three verbs, and the loop in `atjem.attacks` serves every one. All act on each example
by itself, never across the batch. Steps and radii are in pixel units of [0, 1] images.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

_TINY = 1e-10  # keeps the direction of a vanishing gradient finite (METHOD: g / (||g|| + 1e-10))


class Ball(Protocol):
    """A set around an image. Tensors are (B, C, H, W)."""

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A random point of the ball around each image (before clipping to [0, 1])."""

    def ascend(self, x: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        """One step of `step_size` along the steepest direction in the ball's norm."""

    def project(self, x: Tensor, center: Tensor) -> Tensor:
        """The nearest point of the ball around `center`."""


def _check_radius(eps: float) -> None:
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps < float("inf"):
        allowed = "a finite number of at least 0, in pixel units of [0, 1] images"
        raise ValueError(f"eps={eps!r} is no radius; it must be {allowed}")


def _norms(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)


def _ascend_l2(x: Tensor, gradient: Tensor, step_size: float) -> Tensor:
    return x + step_size * gradient / (_norms(gradient) + _TINY)


@dataclass(frozen=True)
class L2:
    """All images within Euclidean distance `eps`, measured over all pixels and channels of one image."""

    eps: float

    def __post_init__(self) -> None:
        _check_radius(self.eps)

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        direction = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        uniform = torch.rand(len(x), 1, 1, 1, generator=generator, dtype=x.dtype).to(x.device)
        radius = self.eps * uniform ** (1 / x[0].numel())
        return x + radius * direction / (_norms(direction) + _TINY)

    def ascend(self, x: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        return _ascend_l2(x, gradient, step_size)

    def project(self, x: Tensor, center: Tensor) -> Tensor:
        delta = x - center
        return center + delta * (self.eps / (_norms(delta) + _TINY)).clamp(max=1.0)


@dataclass(frozen=True)
class Linf:
    """All images whose every pixel value lies within `eps`."""

    eps: float

    def __post_init__(self) -> None:
        _check_radius(self.eps)

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.rand(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        return x + self.eps * (2 * noise - 1)

    def ascend(self, x: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        return x + step_size * gradient.sign()

    def project(self, x: Tensor, center: Tensor) -> Tensor:
        return center + (x - center).clamp(-self.eps, self.eps)


@dataclass(frozen=True)
class Unbounded:
    """Every image; steps have fixed Euclidean length (DAT's contrastive attack and sampler: eps = inf)."""

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x

    def ascend(self, x: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        return _ascend_l2(x, gradient, step_size)

    def project(self, x: Tensor, center: Tensor) -> Tensor:
        return x


_NORMS: dict[str, type[L2] | type[Linf]] = {"L2": L2, "Linf": Linf}


def make_ball(norm: str, eps: float) -> Ball:
    """The ball of a norm's name. Raises ValueError for a name that is not known and for eps below 0."""
    if not isinstance(norm, str) or norm not in _NORMS:
        raise ValueError(f"norm={norm!r} is unknown; use {' or '.join(map(repr, _NORMS))}")
    return _NORMS[norm](eps)
