"""A classifier's logits read three ways: class posterior, joint energy and marginal energy.

Grathwohl et al. 2020, arXiv 1912.03263, eq. 2, 5 and 6.
"""

import torch
from torch import Tensor, nn

from atjem.inputs import check_inputs


def class_logit(logits: Tensor, y: Tensor) -> Tensor:
    """f(x)[y]: the logit of each example's own class. logits: (B, K); y: (B,) int64. Returns (B,)."""
    return logits.gather(1, y.unsqueeze(1)).squeeze(1)


def energy_from_logits(logits: Tensor, y: Tensor | None = None) -> Tensor:
    """Marginal energy -logsumexp f(x), or joint energy -f(x)[y] when y is given. Returns (B,)."""
    return -logits.logsumexp(dim=1) if y is None else -class_logit(logits, y)


def energy(model: nn.Module, x: Tensor, y: Tensor | None = None) -> Tensor:
    """Energy of each image under the model: low means like the data.

    x: (B, C, H, W) float32 in [0, 1]; y: (B,) int64 for the joint energy E(x, y) = -f(x)[y], or None for
    the marginal E(x) = -logsumexp_y f(x)[y]. Returns (B,). Raises ValueError for tensors of other kinds.
    """
    check_inputs(model, x, y)
    return energy_from_logits(model(x), y)


@torch.no_grad()
def classify(model: nn.Module, x: Tensor) -> Tensor:
    """The class posterior softmax f(x) of each image; its largest entry is the predicted class.

    x: (B, C, H, W) float32 in [0, 1]. Returns (B, K), rows summing to 1, without a graph.
    """
    check_inputs(model, x)
    probabilities: Tensor = model(x).softmax(dim=1)
    return probabilities
