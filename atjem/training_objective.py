"""The contract of a training objective: batch and networks in, a loss with its graph out."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """One rank's share of a global batch. Images: (B, C, H, W) float32 in [0, 1]; labels: (B,) int64."""

    x: Tensor  # for the classifier, strongly augmented
    y: Tensor
    x_real: Tensor | None = None  # for the energy, weakly augmented
    y_real: Tensor | None = None
    x_seed: Tensor | None = None  # out-of-distribution starts of the contrastive images
    seed: int | None = None  # of the step's random numbers, the same on every rank
    sizes: Sequence[int] = ()  # of every rank's share; empty: this is the whole batch

    def split(self, shares: Sequence[Sequence[int]], rank: int) -> Iterator["Batch"]:
        """Micro-batches for gradient accumulation. shares: images of each rank in each micro-batch."""
        own = [sizes[rank] for sizes in shares]
        *tensors, seed, _ = self.__dict__.values()
        parts = [[None] * len(own) if tensor is None else tensor.split(own) for tensor in tensors]
        seeds = [None if seed is None else seed + index for index in range(len(own))]
        return (Batch(*fields) for fields in zip(*parts, seeds, shares, strict=True))


@dataclass(frozen=True)
class Networks:
    """One model as the parts of a step use it."""

    model: nn.Module  # the plain module, for what differentiates twice
    update: nn.Module  # for the differentiated forward: averages gradients over ranks, may be compiled
    attack: nn.Module  # its frozen twin in eval mode: gradients of images alone


@dataclass
class Terms:
    """What one forward pass gives: the loss to minimise and what is worth watching (scalars)."""

    loss: Tensor
    watched: dict[str, Tensor]
    real_score: Tensor | None = None  # f(x)[y] of real and contrastive images, for the AUROC
    contrast_score: Tensor | None = None


class Objective(ABC):
    """What the learner minimises. `freezes_norm`: BatchNorm uses its running statistics throughout."""

    freezes_norm = False

    @abstractmethod
    def terms(self, networks: Networks, batch: Batch, num_steps: int) -> Terms:
        """The loss on one micro-batch, with its graph; `num_steps` is the curriculum's T."""

    def state_dict(self) -> dict[str, Tensor]:
        """What an interruption must bring back; most objectives have nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes what `state_dict` gave."""
        assert not state
