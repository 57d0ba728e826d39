"""Does confidence mean what it says? Apart from `scores`, since torchmetrics takes seconds to import."""

import math

import torch
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_calibration_error

NUM_BINS = 15
_LARGEST = math.log(100)  # log of the temperature


def expected_calibration_error(logits: Tensor, y: Tensor, num_bins: int = NUM_BINS) -> Tensor:
    """ECE with equal-width confidence bins (Guo et al. 2017, eq. 3). Returns a scalar tensor."""
    num_classes = logits.shape[1]
    return multiclass_calibration_error(_posterior(logits), y, num_classes, n_bins=num_bins, norm="l1")


def adaptive_calibration_error(logits: Tensor, y: Tensor, num_bins: int = NUM_BINS) -> Tensor:
    """ECE with bins of equally many images (Nguyen & O'Connor 2015). Returns a scalar tensor."""
    confidence, predicted = _posterior(logits).max(dim=1)
    correct = (predicted == y).double()
    order = torch.argsort(confidence, stable=True)
    bins = [part for part in torch.tensor_split(order, num_bins) if len(part)]
    gaps = [len(part) * (confidence[part].mean() - correct[part].mean()).abs() for part in bins]
    return torch.stack(gaps).sum() / len(y)


def fit_temperature(logits: Tensor, y: Tensor) -> float:
    """T > 0 with the least cross-entropy of logits / T (Guo et al. 2017, section 4.2), within 0.01 to 100.

    To be fitted on other images than those that the result is judged by.
    """
    logits = logits.double()

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(logits / math.exp(log_temperature), y))

    # The loss is convex in 1 / T, so it has one valley in log T.
    return math.exp(minimize_scalar(loss, bounds=(-_LARGEST, _LARGEST), method="bounded").x)


def reliability_bins(logits: Tensor, y: Tensor, num_bins: int = NUM_BINS) -> list[dict[str, float]]:
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
