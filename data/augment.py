"""Augmentation of 8-bit images, drawn for each image by itself.

How an augmentation is written is told in `data.augment_text`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.augment_text import HELP, AugmentSpec, parse_augment
from data.crops import random_crop
from data.images import Images, Indices

_ROW, _COLUMN, _FLIP, _CUT_ROW, _CUT_COLUMN, _SEED = range(6)  # columns of what is drawn
_FINE = 1 << 16
_GREY = 128


@dataclass(frozen=True)
class Augmentation:
    """`draw` makes the numbers for a global batch; `view` uses one rank's part of them."""

    spec: AugmentSpec

    @staticmethod
    def parse(text: str) -> "Augmentation":
        """Raises ValueError with what is allowed when the text is not understood."""
        spec = parse_augment(text)
        if spec is None:
            raise ValueError(f"{text!r} is not understood; use {HELP}")
        return Augmentation(spec)

    def draw(self, num_images: int, seed: int, step: int) -> Tensor:
        """Crop corner, flip (0 or 1), cutout centre (in 1/65,536 of the image) and a seed for each image.

        num_images: of the global batch. Returns (num_images, 6) int64, a function of (seed, step).
        """
        rng = np.random.Generator(np.random.Philox(key=[seed, step]))
        corners = rng.integers(0, 2 * self.spec.crop + 1, size=(num_images, 2))
        flips = rng.integers(0, 2 if self.spec.flip else 1, size=(num_images, 1))
        centres = rng.integers(0, _FINE, size=(num_images, 2))
        seeds = rng.integers(0, 1 << 62, size=(num_images, 1))
        return torch.from_numpy(np.concatenate([corners, flips, centres, seeds], axis=1))

    def view(self, images: Images, indices: Indices, drawn: Tensor) -> Tensor:
        """These images, augmented. drawn: (len(indices), 6) from `draw`. Returns (B, C, S, S) uint8."""
        crops = [random_crop(seed) for seed in drawn[:, _SEED].tolist()] if self.spec.rrc else None
        return self.apply(images.get(indices, crops), drawn)

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Everything but the resized crop. images: (B, C, S, S) uint8; padding is black. Same shape back."""
        spec = self.spec
        if spec.flip:
            images = torch.where(drawn[:, _FLIP].bool().view(-1, 1, 1, 1), images.flip(3), images)
        if spec.crop:
            images = _crop(images, drawn[:, [_ROW, _COLUMN]], spec.crop)
        if spec.autoaugment:
            images = _autoaugment(images, drawn[:, _SEED])
        if spec.cutout:
            images = _cutout(images, drawn[:, [_CUT_ROW, _CUT_COLUMN]], spec.cutout)
        return images


def _crop(images: Tensor, corners: Tensor, pad: int) -> Tensor:
    """Each image's own window out of its zero-padded self."""
    num, _, height, width = images.shape
    padded = F.pad(images, (pad, pad, pad, pad))
    rows = corners[:, 0, None] + torch.arange(height)
    columns = corners[:, 1, None] + torch.arange(width)
    batch = torch.arange(num)
    return padded[batch[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _autoaugment(images: Tensor, seeds: Tensor) -> Tensor:
    """The CIFAR-10 policy (Cubuk et al. 2019) by torchvision, whose random numbers come from each seed."""
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    policy = AutoAugment(AutoAugmentPolicy.CIFAR10, fill=[_GREY] * images.shape[1])
    changed = []
    with torch.random.fork_rng(devices=[]):
        for image, seed in zip(images, seeds.tolist(), strict=True):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPU too
            changed.append(policy(image))
    return torch.stack(changed)


def _cutout(images: Tensor, centres: Tensor, size: int) -> Tensor:
    """A grey square around each centre, cut off at the border (DeVries & Taylor 2017)."""
    inside = []
    for side, drawn in zip(images.shape[2:], centres.T, strict=True):
        first = drawn[:, None] * side // _FINE - size // 2
        pixels = torch.arange(side)
        inside.append((pixels >= first) & (pixels < first + size))
    return images.masked_fill(inside[0][:, None, :, None] & inside[1][:, None, None, :], _GREY)
