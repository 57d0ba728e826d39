"""One optimiser step: batch -> attack -> losses -> backward -> optimiser -> average -> metrics."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from atjem.curriculum import Curriculum
from atjem.ema import Ema
from atjem.models.attack_network import AttackNetwork
from atjem.models.precision import autocast
from atjem.models.registry import JointEnergyModel
from atjem.ranks import Ranks
from atjem.scores import auroc
from atjem.training_objective import Batch, Networks, Objective, Terms


@dataclass
class Learner:
    """A model in training: everything that an interruption must bring back.

    shares: images of each rank in each micro-batch of a global batch; None: one process, one micro-batch.
    precision: fp32, tf32 or bf16, as in `atjem.models.precision`; `compiled` runs both of the step's networks
    through torch.compile, one graph for each batch shape.
    """

    model: JointEnergyModel
    objective: Objective
    optimizer: Optimizer
    schedule: LRScheduler
    ema: Ema[JointEnergyModel]
    curriculum: Curriculum | None = None
    shares: Sequence[Sequence[int]] | None = None
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
            attack = compile_network(self._attack.network, replay=True)
            self._networks = Networks(self.model, compile_network(update, replay=False), attack)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One optimiser step on this rank's share of the global batch. Returns scalars, the same on all.

        Nothing here waits for the device but the curriculum, which needs the last step's AUROC.
        """
        self.model.train(not self.objective.freezes_norm)
        num_steps = self._contrastive_steps()
        self.optimizer.zero_grad(set_to_none=True)
        ranks, shares = Ranks.present(), self.shares or [[len(batch.x)]]
        weights = [sizes[ranks.rank] / sum(map(sum, shares)) for sizes in shares]  # of this rank's means
        micros = list(batch.split(shares, ranks.rank))
        parts = [
            self._backward(micro, num_steps, weight * ranks.num, last=micro is micros[-1])
            for micro, weight in zip(micros, weights, strict=True)
        ]
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        self.ema.update(self.model)
        return self._measure(parts, weights, [sum(own) for own in zip(*shares, strict=True)], num_steps)

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
        self._unread = None
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.objective.load_state_dict(state["objective"])
        if self.curriculum:
            self.curriculum.load_state_dict(state["curriculum"])

    def scale_lr(self, factor: float) -> None:
        """Multiplies the learning rate of every step to come; part of the state from then on."""
        for group in self.optimizer.param_groups:
            group["lr"] *= factor
            group["initial_lr"] *= factor
        self.schedule.base_lrs = [lr * factor for lr in self.schedule.base_lrs]

    def _contrastive_steps(self) -> int:
        """The curriculum's T, once it has seen the last step's AUROC."""
        if self.curriculum is None:
            return 0
        if self._unread is not None:
            self.curriculum.update(self._unread.item())
            self._unread = None
        return self.curriculum.num_steps

    def _backward(self, micro: Batch, num_steps: int, weight: float, *, last: bool) -> Terms:
        """weight: of the micro-batch's mean loss; DDP divides by the number of ranks."""
        self._attack.refresh()
        alone = nullcontext() if last or self.ddp is None else self.ddp.no_sync()
        with alone:
            with autocast(self.precision, micro.x.device.type):
                terms = self.objective.terms(self._networks, micro, num_steps)
            (terms.loss * weight).backward()
        return terms

    @torch.no_grad()
    def _measure(
        self, parts: list[Terms], weights: list[float], sizes: list[int], num_steps: int
    ) -> dict[str, Tensor]:
        """weights: of the parts' means; sizes: images of each rank."""
        ranks = Ranks.present()
        watched = [{**part.watched, "loss": part.loss.detach()} for part in parts]
        means = [torch.stack([value.double() for value in own.values()]) for own in watched]
        scaled = [weight * mean for weight, mean in zip(weights, means, strict=True)]
        metrics = dict(zip(watched[0], ranks.sum(torch.stack(scaled).sum(dim=0)), strict=True))
        if self.curriculum and parts[0].real_score is not None:
            real = torch.cat([part.real_score for part in parts if part.real_score is not None])
            contrast = torch.cat([part.contrast_score for part in parts if part.contrast_score is not None])
            # over all ranks, so that the AUROC does not depend on their number
            real, contrast = ranks.gather(real, sizes), ranks.gather(contrast, sizes)
            metrics["auroc"] = self._unread = auroc(real, contrast)
            metrics["contrastive_steps"] = torch.full_like(metrics["auroc"], num_steps)
        return metrics


def compile_network(network: nn.Module, *, replay: bool) -> nn.Module:
    """`network` by torch.compile, one graph for each batch shape.

    replay: on a GPU, replay them as CUDA graphs. Not for networks whose weights get gradients: those live on
    after the next replay, in memory that it writes over.
    """
    on_gpu = next(network.parameters()).is_cuda
    compiled: nn.Module = torch.compile(
        network, dynamic=False, mode="reduce-overhead" if replay and on_gpu else "default"
    )  # type: ignore[assignment]
    return compiled
