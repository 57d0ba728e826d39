"""What an attack climbs: functions of logits (B, K) and labels (B,) to a value for each example (B,)."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from atjem.energies import class_logit, energy_from_logits

Objective = Callable[[Tensor, Tensor], Tensor]


def joint(logits: Tensor, y: Tensor) -> Tensor:
    """f(x)[y]: climbing it makes x more like class y (contrastive attack, conditional sampling)."""
    return class_logit(logits, y)


def marginal(logits: Tensor, y: Tensor) -> Tensor:
    """logsumexp f(x): climbing it makes x more like any data; y is not used (unconditional sampling)."""
    return -energy_from_logits(logits)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """CE(f(x), y): climbing it makes the classifier wrong (Madry et al. 2018)."""
    return F.cross_entropy(logits, y, reduction="none")


def targeted_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-CE(f(x), y): climbing it makes the classifier say y, the target."""
    return -cross_entropy(logits, y)


def confidence(logits: Tensor, y: Tensor) -> Tensor:
    """log max softmax f(x): climbing it makes the classifier sure of any class; y is not used."""
    return logits.log_softmax(dim=1).amax(dim=1)


MODES: dict[str, Objective] = {"joint": joint, "marginal": marginal}
