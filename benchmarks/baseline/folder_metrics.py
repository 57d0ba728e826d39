"""Figures of samples as research code has them: PNGs in a folder, which FID reads, and then IS again."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch_fidelity.datasets import ImagesPathDataset
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric

from atjem.fidelity import Statistics


def folder_metrics(
    samples: Tensor, reference: Statistics, extractor: FeatureExtractorBase, folder: Path
) -> tuple[float, float]:
    """FID and IS of (N, C, H, W) uint8 samples, each from its own reading of the folder."""
    for number, pixels in enumerate(samples):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{number:05d}.png")
    pooled, _ = _features(extractor, folder)
    found = fid_statistics_to_metric(fid_features_to_statistics(pooled), vars(reference), verbose=False)
    _, logits = _features(extractor, folder)
    score = isc_features_to_metric(logits)
    return found["frechet_inception_distance"], score["inception_score_mean"]


@torch.no_grad()
def _features(extractor: FeatureExtractorBase, folder: Path) -> tuple[Tensor, Tensor]:
    images = ImagesPathDataset(sorted(map(str, folder.glob("*.png"))))
    loader = torch.utils.data.DataLoader(images, batch_size=64)
    pooled, logits = zip(*(extractor(batch) for batch in loader), strict=True)
    return torch.cat(pooled).double(), torch.cat(logits).double()
