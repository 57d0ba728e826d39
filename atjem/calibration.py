"""Does confidence mean what it says? Apart from `scores`, since torchmetrics takes seconds to import."""

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error


def expected_calibration_error(logits: Tensor, y: Tensor, num_bins: int = 15) -> Tensor:
    """ECE with equal-width confidence bins (Guo et al. 2017, eq. 3). Returns a scalar tensor."""
    num_classes = logits.shape[1]
    return multiclass_calibration_error(_posterior(logits), y, num_classes, n_bins=num_bins, norm="l1")


def reliability_bins(logits: Tensor, y: Tensor, num_bins: int = 15) -> list[dict[str, float]]:
    """The bins behind ECE that hold any image: mean confidence, accuracy and count of each."""
    confidence, predicted = _posterior(logits).max(dim=1)
    correct = (predicted == y).double()
    edges = torch.linspace(0, 1, num_bins + 1, dtype=confidence.dtype)
    places = torch.bucketize(confidence, edges[1:-1].contiguous())
    bins = []
    for place in places.unique().tolist():
        inside = places == place
        bins.append(
            {
                "confidence": confidence[inside].mean().item(),
                "accuracy": correct[inside].mean().item(),
                "count": int(inside.sum()),
            }
        )
    return bins


def _posterior(logits: Tensor) -> Tensor:
    """softmax(f(x)), just below 1: torchmetrics puts a confidence of exactly 1 into a bin of its own."""
    return logits.double().softmax(1).clamp(max=1 - 1e-12)
