"""Training losses: tensors in, one value for each example out; reduction and weights are the caller's."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atjem.energies import energy_from_logits


def classifier_loss(logits_adv: Tensor, y: Tensor) -> Tensor:
    """L_AT-CE of DAT: cross-entropy of the logits at x_adv. logits: (B, K), y: (B,). Returns (B,)."""
    return F.cross_entropy(logits_adv, y, reduction="none")


def energy_loss(logits_real: Tensor, logits_contrast: Tensor) -> Tensor:
    """L_BCE of DAT: is an image real? -E(x) is the score, over the concatenation of both batches.

    logits: (B, K) each, of the same length. Returns (2B,): first the real, then the contrastive examples.
    """
    scores = -energy_from_logits(torch.cat([logits_real, logits_contrast]))
    is_real = torch.zeros_like(scores)
    is_real[: len(logits_real)] = 1
    return F.binary_cross_entropy_with_logits(scores, is_real, reduction="none")


def r1_penalty(model: nn.Module, x: Tensor) -> Tensor:
    """0.5 * ||d(-E)/dx||^2 on real images (Mescheder et al. 2018); differentiable. Returns (B,)."""
    x = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(-energy_from_logits(model(x)).sum(), x, create_graph=True)
    return 0.5 * gradient.flatten(1).square().sum(dim=1)
