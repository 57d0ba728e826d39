"""The step of dual adversarial training written down as it is told, one thing after another.

Same maths as `atjem.learner.Learner` with `DualAdversarialTraining`, and none of its economies: every image
set in a forward of its own, three more forwards for the AUROC, attacks through the network in training, NCHW,
constants moved and indices made on every forward, a loop over parameters for the average, NumPy for the
AUROC, a projection onto a ball without bounds.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atjem.models.registry import JointEnergyModel
from atjem.training_objective import Batch


@dataclass
class Straightforward:
    """A model in training by the straightforward step. `eps`, step sizes: L2, in [0, 1] pixels."""

    model: JointEnergyModel
    ema: JointEnergyModel
    optimizer: torch.optim.Optimizer
    eps: float = 0.5
    classifier_step_size: float = 0.1
    classifier_steps: int = 10
    contrastive_step_size: float = 0.1
    ema_decay: float = 0.999
    num_updates: int = 0

    def step(self, batch: Batch, num_steps: int) -> dict[str, float]:
        """One optimiser step with T = num_steps. Returns loss and AUROC."""
        assert batch.x_real is not None
        assert batch.y_real is not None
        assert batch.x_seed is not None
        self.model.eval()
        x_contrast = self.contrastive_attack(batch.x_seed, batch.y_real, num_steps)
        x_adv = self.classifier_attack(batch.x, batch.y)
        auroc = self._auroc(batch.x_real, x_contrast, batch.x_seed, batch.y_real)
        self.optimizer.zero_grad()
        real, contrast = self._logits(batch.x_real), self._logits(x_contrast)
        scores = torch.cat([real.logsumexp(1), contrast.logsumexp(1)])
        is_real = torch.cat([torch.ones(len(real)), torch.zeros(len(contrast))]).to(scores)
        bce = F.binary_cross_entropy_with_logits(scores, is_real)
        loss = F.cross_entropy(self._logits(x_adv), batch.y) + bce
        loss.backward()
        self.optimizer.step()
        self._average()
        return {"loss": loss.item(), "auroc": auroc}

    def contrastive_attack(self, x: Tensor, y: Tensor, num_steps: int) -> Tensor:
        def score(logits: Tensor) -> Tensor:
            return logits[torch.arange(len(logits), device=logits.device), y].sum()

        return self._climb(x, score, self.contrastive_step_size, num_steps, math.inf)

    def classifier_attack(self, x: Tensor, y: Tensor) -> Tensor:
        def score(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits, y, reduction="sum")

        return self._climb(x, score, self.classifier_step_size, self.classifier_steps, self.eps)

    def _climb(self, x: Tensor, score, step_size: float, num_steps: int, eps: float) -> Tensor:
        x_t = x.clone()
        for _ in range(num_steps):
            x_t = x_t.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(score(self._logits(x_t)), x_t)
            x_t = x_t.detach() + step_size * gradient / (_norm(gradient) + 1e-10)
            delta = x_t - x
            delta = delta * torch.clamp(eps / (_norm(delta) + 1e-10), max=1.0)
            x_t = torch.clamp(x + delta, 0, 1)
        return x_t.detach()

    def _logits(self, x: Tensor) -> Tensor:
        spec = self.model.spec
        mean = torch.tensor(spec.mean, dtype=x.dtype).view(1, -1, 1, 1).to(x.device)
        std = torch.tensor(spec.std, dtype=x.dtype).view(1, -1, 1, 1).to(x.device)
        logits: Tensor = self.model.backbone((x - mean) / std)
        return logits.float() if logits.dtype == torch.bfloat16 else logits

    @torch.no_grad()
    def _auroc(self, x_real: Tensor, x_contrast: Tensor, x_seed: Tensor, y: Tensor) -> float:
        """Of f(x)[y], real against contrastive; the seeds' scores are watched only."""
        own = torch.arange(len(y), device=y.device), y
        real, contrast, _seed = (self._logits(x)[own].cpu().numpy() for x in (x_real, x_contrast, x_seed))
        scores = np.concatenate([real, contrast])
        ranks = np.empty(len(scores))
        ranks[scores.argsort()] = np.arange(1, len(scores) + 1)
        above = ranks[: len(real)].sum() - len(real) * (len(real) + 1) / 2
        return float(above / (len(real) * len(contrast)))

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.ema_decay, (1 + self.num_updates) / (10 + self.num_updates))
        decay = decay if self.num_updates else 0.0
        pairs = zip(_tensors(self.ema), _tensors(self.model), strict=True)
        for averaged, current in pairs:
            if averaged.is_floating_point():
                averaged.copy_(decay * averaged + (1 - decay) * current)
            else:
                averaged.copy_(current)
        self.num_updates += 1


def _norm(x: Tensor) -> Tensor:
    return x.view(len(x), -1).norm(dim=1).view(-1, 1, 1, 1)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
