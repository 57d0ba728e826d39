"""One optimiser step of each training objective: batch -> attack -> losses -> backward -> step -> metrics."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from atjem.attacks import pgd
from atjem.balls import Ball, Unbounded
from atjem.curriculum import Curriculum
from atjem.energies import class_logit, energy_from_logits
from atjem.losses import classifier_loss, energy_loss, r1_penalty
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

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return pgd(
            model,
            x,
            y,
            objective=cross_entropy,
            ball=self.ball,
            step_size=self.step_size,
            num_steps=self.num_steps,
        )


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
    def terms(self, model: nn.Module, attacked: nn.Module, batch: Batch, num_steps: int) -> Terms:
        """model: for the differentiated forward; attacked: the same weights without gradient hooks."""

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

    def terms(self, model: nn.Module, attacked: nn.Module, batch: Batch, num_steps: int) -> Terms:
        x_adv = _attack_in_eval(self.attack, attacked, batch) if self.attack else batch.x
        logits = model(x_adv)
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

    def terms(self, model: nn.Module, attacked: nn.Module, batch: Batch, num_steps: int) -> Terms:
        assert batch.x_real is not None
        assert batch.y_real is not None
        assert batch.x_seed is not None
        x_adv = self.attack(attacked, batch.x, batch.y)
        x_contrast = pgd(
            attacked,
            batch.x_seed,
            batch.y_real,
            objective=MODES[self.mode],
            ball=Unbounded(),
            step_size=self.contrastive_step_size,
            num_steps=num_steps,
        )
        logits = model(torch.cat([x_adv, batch.x_real, x_contrast]))
        logits_adv, logits_real, logits_contrast = logits.split(
            [len(x_adv), len(batch.x_real), len(x_contrast)]
        )
        clf = classifier_loss(logits_adv, batch.y).mean()
        bce = energy_loss(logits_real, logits_contrast).mean()
        loss = self.classifier_weight * clf + self.energy_weight * bce
        watched = {
            "classifier_loss": clf,
            "energy_loss": bce,
            "adversarial_accuracy": accuracy(logits_adv, batch.y),
            "energy_real": energy_from_logits(logits_real).mean(),
            "energy_contrast": energy_from_logits(logits_contrast).mean(),
        }
        if self.r1_weight > 0:
            watched["r1"] = r1_penalty(attacked, batch.x_real).mean()
            loss = loss + self.r1_weight * watched["r1"]
        return Terms(
            loss,
            {name: value.detach() for name, value in watched.items()},
            class_logit(logits_real, batch.y_real).detach(),
            class_logit(logits_contrast, batch.y_real).detach(),
        )


@dataclass
class Learner:
    """A model in training: everything that an interruption must bring back."""

    model: nn.Module
    objective: Objective
    optimizer: Optimizer
    schedule: LRScheduler
    ema: AveragedModel
    curriculum: Curriculum | None = None
    accumulate: int = 1
    clip_norm: float | None = None
    precision: Callable[[], Any] = nullcontext
    ddp: DistributedDataParallel | None = field(default=None)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One optimiser step on this rank's share of the global batch. Returns scalars, the same on all."""
        self.model.train(not self.objective.freezes_norm)
        num_steps = self.curriculum.num_steps if self.curriculum else 0
        self.optimizer.zero_grad(set_to_none=True)
        parts = [self._backward(micro, num_steps, last) for micro, last in self._micro_batches(batch)]
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        self.ema.update_parameters(self.model)
        return self._measure(parts, num_steps)

    def state_dict(self) -> dict[str, Any]:
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

    def _micro_batches(self, batch: Batch) -> Iterator[tuple[Batch, bool]]:
        for index, micro in enumerate(batch.chunks(self.accumulate), start=1):
            yield micro, index == self.accumulate

    def _backward(self, micro: Batch, num_steps: int, last: bool) -> Terms:
        model = self.ddp or self.model
        with nullcontext() if last or self.ddp is None else self.ddp.no_sync(), self.precision():
            terms = self.objective.terms(model, self.model, micro, num_steps)
            (terms.loss / self.accumulate).backward()
        return terms

    @torch.no_grad()
    def _measure(self, parts: list[Terms], num_steps: int) -> dict[str, Tensor]:
        metrics = {
            name: _mean_over_ranks(torch.stack([part.watched[name] for part in parts]).mean())
            for name in parts[0].watched
        }
        metrics["loss"] = _mean_over_ranks(torch.stack([part.loss.detach() for part in parts]).mean())
        if self.curriculum and parts[0].real_score is not None:
            real = _gather(torch.cat([p.real_score for p in parts if p.real_score is not None]))
            contrast = _gather(torch.cat([p.contrast_score for p in parts if p.contrast_score is not None]))
            metrics["auroc"] = auroc(real, contrast)
            metrics["contrastive_steps"] = torch.tensor(float(num_steps))
            self.curriculum.update(metrics["auroc"].item())
        return metrics


def _attack_in_eval(attack: ClassifierAttack, model: nn.Module, batch: Batch) -> Tensor:
    """Attacks with running statistics and without updating them, then restores the mode."""
    was_training = model.training
    x_adv = attack(model.eval(), batch.x, batch.y)
    model.train(was_training)
    return x_adv


def _mean_over_ranks(value: Tensor) -> Tensor:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


def _gather(scores: Tensor) -> Tensor:
    """The global batch's scores, so that the AUROC does not depend on the number of ranks."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return scores
    gathered = [torch.empty_like(scores) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, scores)
    return torch.cat(gathered)
