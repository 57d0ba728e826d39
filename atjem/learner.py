"""One optimiser step of each training objective: batch -> attack -> losses -> backward -> step -> metrics."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from atjem.attacks import Ascent, Attacked, pgd_together
from atjem.balls import Ball, Unbounded
from atjem.curriculum import Curriculum
from atjem.ema import Ema
from atjem.energies import class_logit, energy_from_logits
from atjem.losses import classifier_loss, energy_loss, r1_penalty
from atjem.models.attack_network import AttackNetwork
from atjem.models.precision import autocast
from atjem.models.registry import JointEnergyModel
from atjem.objectives import MODES, cross_entropy
from atjem.scores import accuracy, auroc


@dataclass(frozen=True)
class Batch:
    """One rank's share of a global batch. Images: (B, C, H, W) float32 in [0, 1]; labels: (B,) int64."""

    x: Tensor  # for the classifier, strongly augmented
    y: Tensor
    x_real: Tensor | None = None  # for the energy, weakly augmented
    y_real: Tensor | None = None
    x_seed: Tensor | None = None  # out-of-distribution starts of the contrastive images
    seed: int | None = None  # of this rank's random numbers at this step, for objectives that draw any

    def chunks(self, num: int) -> Iterator["Batch"]:
        """Equal micro-batches for gradient accumulation. Raises ValueError when they cannot be equal."""
        if len(self.x) % num:
            raise ValueError(f"{len(self.x)} images cannot be split into {num} equal micro-batches")
        *tensors, seed = self.__dict__.values()
        parts = [[None] * num if tensor is None else tensor.chunk(num) for tensor in tensors]
        seeds = [None if seed is None else seed + index for index in range(num)]
        return (Batch(*fields) for fields in zip(*parts, seeds, strict=True))


@dataclass(frozen=True)
class ClassifierAttack:
    """PGD on the cross-entropy, from the image itself."""

    ball: Ball
    step_size: float
    num_steps: int

    def on(self, x: Tensor, y: Tensor) -> Ascent:
        return Ascent(x, y, cross_entropy, self.ball, self.step_size, self.num_steps)


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


@dataclass
class AdversarialTraining(Objective):
    """Stage 1: cross-entropy at PGD examples (Madry et al. 2018). `attack` None: plain training."""

    attack: ClassifierAttack | None
    freezes_norm: bool = False

    def terms(self, networks: Networks, batch: Batch, num_steps: int) -> Terms:
        ascents = [self.attack.on(batch.x, batch.y)] if self.attack else []
        x_adv = pgd_together(networks.attack, ascents)[0].x if ascents else batch.x
        logits = networks.update(x_adv)
        loss = classifier_loss(logits, batch.y).mean()
        return Terms(
            loss, {"classifier_loss": loss.detach(), "adversarial_accuracy": accuracy(logits, batch.y)}
        )


@dataclass
class DualAdversarialTraining(Objective):
    """Stage 2 (DAT): adversarial training of the classifier and of the energy (arXiv 2510.13872).

    loss = w_clf * CE(f(x_adv), y) + w_energy * BCE(-E; real, contrastive) + w_r1 * R1(real)
    """

    attack: ClassifierAttack
    contrastive_step_size: float
    mode: str = "joint"
    classifier_weight: float = 1.0
    energy_weight: float = 1.0
    r1_weight: float = 0.0
    freezes_norm: bool = True

    def terms(self, networks: Networks, batch: Batch, num_steps: int) -> Terms:
        assert batch.x_real is not None
        assert batch.y_real is not None
        adversarial, contrast = self._attack(networks.attack, batch, num_steps)
        logits = networks.update(torch.cat([adversarial.x, batch.x_real, contrast.x]))
        logits_adv, logits_real, logits_contrast = logits.split(
            [len(adversarial.x), len(batch.x_real), len(contrast.x)]
        )
        clf = classifier_loss(logits_adv, batch.y).mean()
        bce = energy_loss(logits_real, logits_contrast).mean()
        loss = self.classifier_weight * clf + self.energy_weight * bce
        logits_seed = logits_contrast if contrast.logits_start is None else contrast.logits_start
        watched = {
            "classifier_loss": clf,
            "energy_loss": bce,
            "adversarial_accuracy": accuracy(logits_adv, batch.y),
            "energy_real": energy_from_logits(logits_real).mean(),
            "energy_contrast": energy_from_logits(logits_contrast).mean(),
            "energy_seed": energy_from_logits(logits_seed).mean(),
        }
        if self.r1_weight > 0:
            watched["r1"] = r1_penalty(networks.model, batch.x_real).mean()
            loss = loss + self.r1_weight * watched["r1"]
        return Terms(
            loss,
            {name: value.detach() for name, value in watched.items()},
            class_logit(logits_real, batch.y_real).detach(),
            class_logit(logits_contrast, batch.y_real).detach(),
        )

    def _attack(self, network: nn.Module, batch: Batch, num_steps: int) -> list[Attacked]:
        """x_adv and x_contrast, climbed together: one batch for the steps that both have."""
        assert batch.y_real is not None
        assert batch.x_seed is not None
        towards_class = Ascent(
            batch.x_seed,
            batch.y_real,
            MODES[self.mode],
            Unbounded(),
            self.contrastive_step_size,
            num_steps,
        )
        return pgd_together(network, [self.attack.on(batch.x, batch.y), towards_class])


@dataclass
class Learner:
    """A model in training: everything that an interruption must bring back.

    precision: fp32, tf32 or bf16, as in `atjem.models.precision`; `compiled` runs both of the step's networks
    through torch.compile, one graph for each batch shape.
    """

    model: JointEnergyModel
    objective: Objective
    optimizer: Optimizer
    schedule: LRScheduler
    ema: Ema[JointEnergyModel]
    curriculum: Curriculum | None = None
    accumulate: int = 1
    clip_norm: float | None = None
    precision: str = "fp32"
    ddp: DistributedDataParallel | None = None
    compiled: bool = False
    _unread: Tensor | None = field(default=None, init=False)  # the last AUROC, still on its device

    def __post_init__(self) -> None:
        self._attack = AttackNetwork(self.model, torch.bfloat16 if self.precision == "bf16" else None)
        update: nn.Module = self.ddp or self.model
        self._networks = Networks(self.model, update, self._attack.network)
        if self.compiled:
            compiled = (compile_network(network) for network in (update, self._attack.network))
            self._networks = Networks(self.model, *compiled)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One optimiser step on this rank's share of the global batch. Returns scalars, the same on all.

        Nothing here waits for the device but the curriculum, which needs the last step's AUROC.
        """
        self.model.train(not self.objective.freezes_norm)
        num_steps = self._contrastive_steps()
        self.optimizer.zero_grad(set_to_none=True)
        parts = [self._backward(micro, num_steps, last) for micro, last in self._micro_batches(batch)]
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        self.ema.update(self.model)
        return self._measure(parts, num_steps)

    def state_dict(self) -> dict[str, Any]:
        self._contrastive_steps()
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "curriculum": self.curriculum.state_dict() if self.curriculum else None,
            "objective": self.objective.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.objective.load_state_dict(state["objective"])
        if self.curriculum:
            self.curriculum.load_state_dict(state["curriculum"])

    def _contrastive_steps(self) -> int:
        """The curriculum's T, once it has seen the last step's AUROC."""
        if self.curriculum is None:
            return 0
        if self._unread is not None:
            self.curriculum.update(self._unread.item())
            self._unread = None
        return self.curriculum.num_steps

    def _micro_batches(self, batch: Batch) -> Iterator[tuple[Batch, bool]]:
        for index, micro in enumerate(batch.chunks(self.accumulate), start=1):
            yield micro, index == self.accumulate

    def _backward(self, micro: Batch, num_steps: int, last: bool) -> Terms:
        self._attack.refresh()
        alone = nullcontext() if last or self.ddp is None else self.ddp.no_sync()
        with alone:
            with autocast(self.precision, micro.x.device.type):
                terms = self.objective.terms(self._networks, micro, num_steps)
            (terms.loss / self.accumulate).backward()
        return terms

    @torch.no_grad()
    def _measure(self, parts: list[Terms], num_steps: int) -> dict[str, Tensor]:
        watched = [{**part.watched, "loss": part.loss.detach()} for part in parts]
        means = torch.stack(
            [torch.stack([own[name].double() for own in watched]).mean() for name in watched[0]]
        )
        metrics = dict(zip(watched[0], _mean_over_ranks(means), strict=True))
        if self.curriculum and parts[0].real_score is not None:
            real = _gather(torch.cat([p.real_score for p in parts if p.real_score is not None]))
            contrast = _gather(torch.cat([p.contrast_score for p in parts if p.contrast_score is not None]))
            metrics["auroc"] = self._unread = auroc(real, contrast)
            metrics["contrastive_steps"] = torch.tensor(float(num_steps))
        return metrics


def compile_network(network: nn.Module) -> nn.Module:
    """`network` by torch.compile, one graph a batch shape; on a GPU each is replayed as a CUDA graph."""
    on_gpu = next(network.parameters()).is_cuda
    compiled: nn.Module = torch.compile(
        network, dynamic=False, mode="reduce-overhead" if on_gpu else "default"
    )  # type: ignore[assignment]
    return compiled


def _mean_over_ranks(values: Tensor) -> Tensor:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


def _gather(scores: Tensor) -> Tensor:
    """The global batch's scores, so that the AUROC does not depend on the number of ranks."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return scores
    gathered = [torch.empty_like(scores) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, scores)
    return torch.cat(gathered)
