"""Scores of labels and of two sets told apart: accuracy, AUROC, false positives at 95 % true ones."""

import torch
from torch import Tensor


def auroc(positive: Tensor, negative: Tensor) -> Tensor:
    """P(a positive scores above a negative), ties counted half (the Mann-Whitney statistic).

    positive: (P,), negative: (N,). Returns a scalar tensor, NaN if any score is. Exact for unbounded scores:
    torchmetrics' AUROC passes them through a sigmoid first, where large logits collapse into ties.
    """
    ordered = torch.sort(negative).values
    below = torch.searchsorted(ordered, positive, right=False)
    not_above = torch.searchsorted(ordered, positive, right=True)
    area = (below + not_above).double().mean() / (2 * len(negative))
    broken = positive.isnan().any() | negative.isnan().any()
    return torch.where(broken, torch.nan, area)


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Fraction of examples whose largest logit is their label. Returns a scalar, NaN if any logit is."""
    share = (logits.argmax(dim=1) == y).double().mean()
    return torch.where(logits.isnan().any(), torch.nan, share)


def fpr95(positive: Tensor, negative: Tensor) -> Tensor:
    """Share of negatives that score at least as high as 95 % of the positives do (Liang et al. 2018).

    positive: (P,), negative: (N,). Returns a scalar tensor, NaN if any score is.
    """
    ordered = torch.sort(positive, descending=True).values
    threshold = ordered[-(-19 * len(ordered) // 20) - 1]
    broken = positive.isnan().any() | negative.isnan().any()
    return torch.where(broken, torch.nan, (negative >= threshold).double().mean())
