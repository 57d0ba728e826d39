"""Seeds with no files: noise images, a function of (seed, index) alone."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.images import Crops, Indices, crop_each
from data.sources.noise_names import KINDS

_COARSE = 2  # a smooth image is this many values a side, spread by bilinear interpolation


class NoiseImages:
    """An endless collection of noise images under the interface of `data.images.Images`.

    'noise-uniform' draws every pixel; 'noise-smooth' draws 2x2 values a channel and interpolates them, so
    that seeds have the low frequencies of photographs. Values are uniform in [0, 255].
    """

    shards = centre = None

    def __init__(self, kind: str, seed: int, channels: int, image_size: int) -> None:
        if kind not in KINDS:
            raise ValueError(f"noise {kind!r} is unknown; use {' or '.join(map(repr, KINDS))}")
        self.kind, self.seed, self.channels, self.image_size = kind, seed, channels, image_size

    def __len__(self) -> int:
        return 1 << 20

    def get(self, indices: Indices, crops: Crops = None) -> Tensor:
        """(len(indices), C, H, W) uint8."""
        return self.get_views(indices, [crops])[0]

    def get_views(self, indices: Indices, views: Sequence[Crops]) -> list[Tensor]:
        side = self.image_size if self.kind == "noise-uniform" else _COARSE
        shape = (self.channels, side, side)
        drawn = [np.random.Generator(np.random.Philox(key=[self.seed, i])).random(shape) for i in indices]
        coarse = torch.from_numpy(np.stack(drawn)).float()
        size = (self.image_size, self.image_size)
        smooth = F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
        squares = (smooth if self.kind == "noise-smooth" else coarse).mul(255).round().to(torch.uint8)
        return [squares if crops is None else crop_each(squares, crops) for crops in views]
