"""The two energies that a classifier's logits define (Grathwohl et al. 2020, arXiv 1912.03263, eq. 5-6)."""

from torch import Tensor, nn


def class_logit(logits: Tensor, y: Tensor) -> Tensor:
    """f(x)[y]: the logit of each example's own class. logits: (B, K); y: (B,) int64. Returns (B,)."""
    return logits.gather(1, y.unsqueeze(1)).squeeze(1)


def energy_from_logits(logits: Tensor, y: Tensor | None = None) -> Tensor:
    """Marginal energy -logsumexp f(x), or joint energy -f(x)[y] when y is given. Returns (B,)."""
    return -logits.logsumexp(dim=1) if y is None else -class_logit(logits, y)


def energy(model: nn.Module, x: Tensor, y: Tensor | None = None) -> Tensor:
    """Energy of each image under the model: low means like the data.

    x: (B, C, H, W) float32 in [0, 1]; y: (B,) int64 for the joint energy E(x, y) = -f(x)[y], or None for
    the marginal E(x) = -logsumexp_y f(x)[y]. Returns (B,).
    """
    return energy_from_logits(model(x), y)
