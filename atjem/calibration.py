"""Does confidence mean what it says? Apart from `scores`, since torchmetrics takes seconds to import."""

from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error


def expected_calibration_error(logits: Tensor, y: Tensor, num_bins: int = 15) -> Tensor:
    """ECE with equal-width confidence bins (Guo et al. 2017, eq. 3). Returns a scalar tensor."""
    num_classes = logits.shape[1]
    # torchmetrics puts a confidence of exactly 1 into a bin of its own.
    posterior = logits.double().softmax(1).clamp(max=1 - 1e-12)
    return multiclass_calibration_error(posterior, y, num_classes, n_bins=num_bins, norm="l1")
