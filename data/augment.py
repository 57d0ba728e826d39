"""Augmentation of whole batches, drawn for each image by itself.

How an augmentation is written is told in `data.augment_text`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.augment_text import HELP, parse_augment


@dataclass(frozen=True)
class Augmentation:
    """Parsed settings; `draw` makes the numbers for a global batch, `apply` uses one rank's part of them."""

    pad: int = 0
    flip: bool = False

    @staticmethod
    def parse(text: str) -> "Augmentation":
        """Raises ValueError with what is allowed when the text is not understood."""
        parsed = parse_augment(text)
        if parsed is None:
            raise ValueError(f"{text!r} is not understood; use {HELP}")
        return Augmentation(*parsed)

    def draw(self, num_images: int, seed: int, step: int) -> Tensor:
        """Crop row, crop column and flip (0 or 1) for each image of a global batch: (num_images, 3) int64."""
        rng = np.random.Generator(np.random.Philox(key=[seed, step]))
        crops = rng.integers(0, 2 * self.pad + 1, size=(num_images, 2))
        flips = rng.integers(0, 2 if self.flip else 1, size=(num_images, 1))
        return torch.from_numpy(np.concatenate([crops, flips], axis=1))

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """images: (B, C, H, W) of any type; drawn: (B, 3) from `draw`. Padding is zeros. Same shape back."""
        if self.flip:
            flipped = drawn[:, 2].bool().view(-1, 1, 1, 1).to(images.device)
            images = torch.where(flipped, images.flip(3), images)
        return _crop(images, drawn[:, :2].to(images.device), self.pad) if self.pad else images


def _crop(images: Tensor, corners: Tensor, pad: int) -> Tensor:
    """Each image's own window out of its zero-padded self."""
    num, _, height, width = images.shape
    padded = F.pad(images, (pad, pad, pad, pad))
    rows = corners[:, 0, None] + torch.arange(height, device=images.device)
    columns = corners[:, 1, None] + torch.arange(width, device=images.device)
    batch = torch.arange(num, device=images.device)
    return padded[batch[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
