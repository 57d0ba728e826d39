"""Fidelity of samples: images -> features -> statistics -> metric, by torch-fidelity.

One pass of the extractor serves every metric. Two extractors exist: torch-fidelity's 2015 Inception, whose
values may bear the standard names (FID, IS, KID, precision, recall), and a classifier of one's own, whose
values may not.
"""

import hashlib
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor
from torch_fidelity.utils import create_feature_extractor

from atjem.checkpoint import load
from atjem.published_files import UNREADABLE, load_tensors

CLASSIFIER = "atjem-classifier"
INCEPTION = "inception-v3-compat"
_LAYERS = {CLASSIFIER: ("features", "logits"), INCEPTION: ("2048", "logits_unbiased")}
_PRC_BLOCK = 1000  # images whose distances to all others are in memory at a time; no part of the protocol
_KID_SUBSETS, _KID_SUBSET_SIZE, _PRC_NEIGHBOURS, _ISC_SPLITS = 100, 1000, 3, 10
_STANDARD = {
    "frechet_distance": "fid",
    "kernel_distance": "kid_mean",
    "feature_precision": "precision",
    "feature_recall": "recall",
    "class_score": "is_mean",
    "class_score_std": "is_std",
}
_MOMENTS = ("count", "total", "products")
NEED_FEATURES = ("kernel_distance", "feature_precision", "feature_recall")  # of the reference, each image's


class ClassifierFeatures(FeatureExtractorBase):
    """A trained classifier of ours as a torch-fidelity extractor: pooled features and logits.

    Images are taken as they are, (B, C, H, W) uint8 at the classifier's own size: no resize.
    """

    def __init__(self, name: str, features_list: list[str], *, weights_path: str, **_: object) -> None:
        super().__init__(name, features_list)
        self.classifier = load(weights_path)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return _LAYERS[CLASSIFIER]

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "features"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> None:
        return None

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.classifier.features(images.float() / 255)
        by_name = {"features": features, "logits": self.classifier.backbone.fc(features)}
        return tuple(by_name[name] for name in self.features_list)


@dataclass(frozen=True)
class Features:
    """Of N images: pooled features (N, D) and class logits (N, K), float64 on the CPU."""

    pooled: Tensor
    logits: Tensor

    @staticmethod
    def cat(parts: list["Features"]) -> "Features":
        return Features(torch.cat([p.pooled for p in parts]), torch.cat([p.logits for p in parts]))

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> "Features":
        """What `tensors` gave, read again."""
        return Features(tensors["pooled"].double(), tensors["logits"].double())

    def tensors(self) -> dict[str, Tensor]:
        """For a file: in float32, which is what extractors compute."""
        return {"pooled": self.pooled.float(), "logits": self.logits.float()}


def make_extractor(name: str, weights_path: str | None, device: torch.device) -> FeatureExtractorBase:
    """The extractor of that name on a device; its `weights_sha256` tells its weights from others.

    weights_path: a model folder, or Inception's .pth file.

    With Inception and no path, torch-fidelity downloads its own weights; without a network that raises.
    """
    if CLASSIFIER not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(CLASSIFIER, ClassifierFeatures)
    if name == INCEPTION and weights_path and not is_inception_file(Path(weights_path)):
        raise ValueError(f"{weights_path} does not hold torch-fidelity's Inception weights")
    option = {"weights_path" if name == CLASSIFIER else "feature_extractor_weights_path": weights_path}
    extractor = create_feature_extractor(name, list(_LAYERS[name]), cuda=False, verbose=False, **option)
    extractor.weights_sha256 = _digest(extractor)
    return _quickened(extractor).to(device, memory_format=torch.channels_last)


def _digest(extractor: nn.Module) -> str:
    """Of the weights themselves, whatever file they came in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(extractor.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _quickened(extractor: FeatureExtractorBase) -> FeatureExtractorBase:
    """The same function with Inception's BatchNorm folded into the convolutions before it."""
    if extractor.get_name() == INCEPTION:
        for block in extractor.modules():
            if isinstance(block, BasicConv2d):
                block.conv = fuse_conv_bn_eval(block.conv, block.bn)
                block.bn = nn.Identity()
    return extractor


def is_inception_file(path: Path) -> bool:
    """True when a file holds that network's state dict. Read safely; torch-fidelity unpickles anything."""
    try:
        state = load_tensors(path, "meta")
    except (pickle.UnpicklingError, *UNREADABLE):
        return False
    return isinstance(state, dict) and any(str(name).startswith("Conv2d_1a_3x3.") for name in state)


@torch.no_grad()
def extract(extractor: FeatureExtractorBase, batches: Iterable[Tensor]) -> Features:
    """Runs uint8 image batches (B, C, H, W) through the extractor once, on its own device."""
    device = next(iter(extractor.state_dict().values())).device
    parts = []
    for images in batches:
        assert images.dtype == torch.uint8, "fidelity is defined on 8-bit images"
        if extractor.get_name() == INCEPTION:
            images = images.expand(-1, 3, -1, -1)  # grey images in the three channels it expects
        pooled, logits = extractor(images.to(device))
        parts.append(Features(pooled.double().cpu(), logits.double().cpu()))
    return Features.cat(parts)


@dataclass(frozen=True)
class Statistics:
    """Mean (D,) and covariance (D, D) of pooled features, float64: all that the Fréchet distance needs."""

    mu: np.ndarray[Any, np.dtype[np.float64]]
    sigma: np.ndarray[Any, np.dtype[np.float64]]

    @staticmethod
    def of(features: Features) -> "Statistics":
        return Statistics(**fid_features_to_statistics(features.pooled))


class FeatureMoments:
    """Count, sum and outer products of pooled features, float64: they add up over batches, parts and ranks.

    They stay on the device of the features.
    """

    def __init__(self) -> None:
        self.count, self.total, self.products = torch.zeros(()), torch.zeros(()), torch.zeros(())

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> "FeatureMoments":
        """What `tensors` gave, read again."""
        moments = FeatureMoments()
        moments.count, moments.total, moments.products = (tensors[name] for name in _MOMENTS)
        return moments

    def tensors(self) -> dict[str, Tensor]:
        """For a file: three tensors on the CPU."""
        return dict(zip(_MOMENTS, (self.count.cpu(), self.total.cpu(), self.products.cpu()), strict=True))

    def merge(self, other: "FeatureMoments") -> None:
        """Adds the moments of other images."""
        self.count = self.count + other.count
        self.total = self.total + other.total
        self.products = self.products + other.products

    def add(self, pooled: Tensor) -> None:
        """pooled: (B, D)."""
        pooled = pooled.double()
        self.count = self.count + len(pooled)
        self.total = self.total + pooled.sum(0)
        self.products = self.products + pooled.T @ pooled

    def statistics(self) -> Statistics:
        """Raises ValueError with fewer than two images."""
        if self.count < 2:
            raise ValueError(f"statistics need at least 2 images, not {int(self.count)}")
        mu = self.total / self.count
        sigma = (self.products - self.count * torch.outer(mu, mu)) / (self.count - 1)
        return Statistics(mu.numpy(), sigma.numpy())


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Fréchet distance of two Gaussians (Heusel et al. 2017, eq. 6)."""
    return float(fid_statistics_to_metric(vars(a), vars(b), verbose=False)["frechet_inception_distance"])


def class_frechet_distance(
    features: Features, labels: Tensor, reference: Features, reference_labels: Tensor, *, fewest: int
) -> float | None:
    """Mean over classes of the Fréchet distance from a class's images to the reference's of that class.

    labels: (N,) int64 each. Classes with less than `fewest` images on either side are left out; None when
    that leaves none. Distances of few images are biased upwards: compare equal numbers alone.
    """
    distances = []
    for label in labels.unique():
        sides = (features.pooled[labels == label], reference.pooled[reference_labels == label])
        if min(map(len, sides)) >= fewest:
            own, real = (Statistics(**fid_features_to_statistics(side)) for side in sides)
            distances.append(frechet_distance(own, real))
    return sum(distances) / len(distances) if distances else None


@dataclass(frozen=True)
class Reference:
    """What samples are compared with. `features`: of some or all of its images; None where unknown."""

    statistics: Statistics
    features: Features | None

    @staticmethod
    def of(features: Features) -> "Reference":
        return Reference(Statistics.of(features), features)


def fidelity_metrics(samples: Features, reference: Reference) -> dict[str, float]:
    """Every fidelity metric of samples against a reference, under the contract's neutral names.

    Without the reference's features those of `NEED_FEATURES` are missing. Raises ValueError when there are
    too few images for a kernel distance or for neighbourhoods.
    """
    _check_enough(samples)
    score = isc_features_to_metric(samples.logits, splits=_ISC_SPLITS)
    near = _of_each_image(samples, reference.features) if reference.features is not None else {}
    return {
        "frechet_distance": frechet_distance(Statistics.of(samples), reference.statistics),
        **near,
        "class_score": score["inception_score_mean"],
        "class_score_std": score["inception_score_std"],
    }


def _of_each_image(samples: Features, reference: Features) -> dict[str, float]:
    _check_enough(reference)
    kid = kid_features_to_metric(
        samples.pooled,
        reference.pooled,
        kid_subsets=_KID_SUBSETS,
        kid_subset_size=min(_KID_SUBSET_SIZE, len(samples.pooled), len(reference.pooled)),
        verbose=False,
    )
    prc = prc_features_to_metric(
        samples.pooled,
        reference.pooled,
        prc_neighborhood=_PRC_NEIGHBOURS,
        prc_batch_size=_PRC_BLOCK,
        save_cpu_ram=True,  # else the distances of 50,000 images to each other are 20 GB at once
        verbose=False,
    )
    values = kid["kernel_inception_distance_mean"], prc["precision"], prc["recall"]
    return dict(zip(NEED_FEATURES, values, strict=True))


def _check_enough(features: Features) -> None:
    if len(features.pooled) < 10:
        raise ValueError(f"fidelity needs at least 10 images on each side, not {len(features.pooled)}")


def protocol() -> dict[str, int]:
    """The constants that the metrics depend on."""
    return {
        "kid_subsets": _KID_SUBSETS,
        "kid_subset_size": _KID_SUBSET_SIZE,
        "prc_neighbours": _PRC_NEIGHBOURS,
        "isc_splits": _ISC_SPLITS,
    }


def standard_names(metrics: dict[str, float]) -> dict[str, float]:
    """The same values under FID's, KID's, IS's names: only for torch-fidelity's 2015 Inception features.

    Precision and recall keep their standard names too; they are those of Inception features, not of VGG16.
    """
    return {_STANDARD[name]: value for name, value in metrics.items()}
