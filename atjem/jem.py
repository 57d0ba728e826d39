"""The JEM baseline that dual adversarial training replaces (Grathwohl et al. 2020, arXiv 1912.03263).

Negative samples come from stochastic gradient Langevin dynamics (SGLD) with a replay buffer. It is known to
diverge.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atjem.energies import energy_from_logits
from atjem.losses import classifier_loss
from atjem.ranks import Ranks
from atjem.scores import accuracy
from atjem.training_objective import Batch, Networks, Objective, Terms


@dataclass(frozen=True)
class Sgld:
    """x <- x + step_size * d logsumexp f(x) / dx + N(0, noise^2), in [0, 1] pixels, without projection."""

    num_steps: int
    step_size: float
    noise: float

    def __call__(self, model: nn.Module, x: Tensor, normal: "Normal") -> tuple[Tensor, Tensor]:
        """x: (B, C, H, W). Returns a detached tensor like x, and the last gradients' L2 norms (B,).

        Parameters' gradients stay as they are.
        """
        gradient = torch.zeros_like(x)
        for _ in range(self.num_steps):
            x = x.detach().requires_grad_(True)
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(-energy_from_logits(model(x)).sum(), x)
            x = x + self.step_size * gradient + self.noise * normal(x)
        return x.detach(), torch.linalg.vector_norm(gradient, dim=(1, 2, 3))


@dataclass(frozen=True)
class Normal:
    """Standard normal noise for a global batch, of which each rank takes its part, whatever their number.

    Drawn on the CPU, so that every device sees the same numbers.
    """

    generator: torch.Generator
    ranks: Ranks
    sizes: Sequence[int]  # of the ranks' shares

    def __call__(self, x: Tensor) -> Tensor:
        """(B, ...) like x, this rank's share of the global batch."""
        shape = (sum(self.sizes), *x.shape[1:])
        everything = torch.randn(shape, generator=self.generator, dtype=x.dtype)
        return self.ranks.own(everything, self.sizes).to(x.device)


@dataclass
class ReplayBuffer:
    """Samples that SGLD goes on from; a share of them begins anew from uniform noise each time."""

    images: Tensor  # (N, C, H, W) float32
    reinit: float

    @staticmethod
    def of_noise(
        num_images: int, shape: tuple[int, ...], reinit: float, generator: torch.Generator
    ) -> "ReplayBuffer":
        return ReplayBuffer(torch.rand(num_images, *shape, generator=generator), reinit)

    def draw(self, num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Starts (num, C, H, W) on the CPU and their places in the buffer (num,)."""
        places = torch.randint(len(self.images), (num,), generator=generator)
        fresh = torch.rand(num, *self.images.shape[1:], generator=generator)
        anew = torch.rand(num, generator=generator) < self.reinit
        return torch.where(anew.view(-1, 1, 1, 1), fresh, self.images[places]), places

    def put(self, places: Tensor, samples: Tensor) -> None:
        self.images[places] = samples.cpu()


@dataclass
class JointEnergyTraining(Objective):
    """loss = CE(f(x), y) + w_energy * [mean logsumexp f(x_sgld) - mean logsumexp f(x)].

    x carries Gaussian noise of `input_noise`; samples have no label, and there is no curriculum.
    Normalisation is frozen: the method has none, and mixed batches would spoil its statistics.
    """

    sgld: Sgld
    buffer: ReplayBuffer
    input_noise: float
    energy_weight: float = 1.0
    freezes_norm: bool = True

    def terms(self, networks: Networks, batch: Batch, num_steps: int) -> Terms:
        assert batch.seed is not None
        generator, ranks = torch.Generator().manual_seed(batch.seed), Ranks.present()
        sizes = batch.sizes or [len(batch.x)]
        normal = Normal(generator, ranks, sizes)
        starts, places = self.buffer.draw(sum(sizes), generator)
        x_sgld, gradient_norms = self.sgld(networks.attack, ranks.own(starts, sizes).to(batch.x), normal)
        everything = ranks.gather(x_sgld, sizes)  # each rank keeps the whole buffer
        if everything.isfinite().all():
            self.buffer.put(places, everything)
        x = batch.x + self.input_noise * normal(batch.x)
        logits, logits_sgld = networks.update(torch.cat([x, x_sgld])).chunk(2)
        clf = classifier_loss(logits, batch.y).mean()
        real, sampled = energy_from_logits(logits), energy_from_logits(logits_sgld)
        gap = real.mean() - sampled.mean()
        loss = clf + self.energy_weight * gap
        watched = {
            "classifier_loss": clf,
            "energy_loss": gap,
            "clean_accuracy": accuracy(logits, batch.y),
            "energy_real": real.mean(),
            "energy_contrast": sampled.mean(),
            "input_gradient": gradient_norms.mean(),
        }
        return Terms(loss, {name: value.detach() for name, value in watched.items()})

    def state_dict(self) -> dict[str, Tensor]:
        return {"buffer": self.buffer.images}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.buffer.images = state["buffer"].cpu().clone()
