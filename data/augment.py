"""Augmentation of 8-bit images, drawn for each image by itself.

How an augmentation is written is told in `data.augment_text`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.augment_text import HELP, AugmentSpec, parse_augment
from data.autoaugment import autoaugment
from data.batched_ops import GREY
from data.crops import random_crop
from data.devices import to_device
from data.images import Crops, Images, Indices

_ROW, _COLUMN, _FLIP, _CUT_ROW, _CUT_COLUMN, _SEED = range(6)  # columns of what is drawn
_FINE = 1 << 16


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

    def view(
        self, images: Images, indices: Indices, drawn: Tensor, device: torch.device | None = None
    ) -> Tensor:
        """These images, augmented on `device` (None: where they are). drawn: (len(indices), 6) from `draw`.

        Returns (B, C, S, S) uint8.
        """
        views = images.get(indices, self.crops(images, drawn))
        return self.apply(views if device is None else to_device(views, device), drawn, overwrite=True)

    def crops(self, images: Images, drawn: Tensor) -> Crops:
        """The part of each image that the collection is to give; None where all of it is seen."""
        if self.spec.rrc:
            return [random_crop(seed) for seed in drawn[:, _SEED].tolist()]
        return None if images.centre is None else [images.centre] * len(drawn)

    def apply(self, images: Tensor, drawn: Tensor, *, overwrite: bool = False) -> Tensor:
        """Everything but the resized crop. images: (B, C, S, S) uint8; padding is black. Same shape back.

        The result is on the images' device; `drawn` is best left on the CPU, where work is shared out.
        overwrite: the images may be, since nobody else has them.
        Raises ValueError when `drawn` is not of as many images.
        """
        if len(images) != len(drawn):
            raise ValueError(f"{len(drawn)} rows of numbers for {len(images)} images; draw one for each")
        spec, placed = self.spec, to_device(drawn, images.device)
        if spec.crop:
            flips = placed[:, _FLIP, None, None, None] == 1 if spec.flip else None
            images = _crop(images, placed[:, _ROW:_FLIP], spec.crop, flips)
        elif spec.flip:
            images = _flip(images if overwrite else images.clone(), drawn[:, _FLIP])
        if spec.autoaugment:
            images = autoaugment(images, drawn[:, _SEED])
        if spec.cutout:
            images = _cutout(images, placed[:, _CUT_ROW:_SEED], spec.cutout)
        return images


def _flip(images: Tensor, flips: Tensor) -> Tensor:
    """Mirrors the images whose flip is 1: on a CPU in place, one by one, ten times as fast as by a mask."""
    if images.device.type != "cpu":
        return torch.where(flips.to(images.device).view(-1, 1, 1, 1) == 1, images.flip(3), images)
    for place in flips.nonzero()[:, 0].tolist():
        images[place] = images[place].flip(2)
    return images


def _crop(images: Tensor, corners: Tensor, pad: int, flips: Tensor | None) -> Tensor:
    """Each image's own window out of its zero-padded self, mirrored before where `flips` says so.

    One gather by pixel numbers that all channels share, in which a flip is free: on two cores four times
    as fast as indexing by image, row and column. corners: (B, 2); flips: (B, 1, 1, 1) bool.
    """
    num, channels, height, width = images.shape
    padded = F.pad(images, (pad, pad, pad, pad))
    rows = corners[:, 0, None, None] + torch.arange(height, device=images.device)[:, None]
    columns = corners[:, 1, None, None] + torch.arange(width, device=images.device)
    if flips is not None:
        columns = torch.where(flips[:, 0], width + 2 * pad - 1 - columns, columns)
    pixels = (rows * (width + 2 * pad) + columns).view(num, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, pixels).view_as(images)


def _cutout(images: Tensor, centres: Tensor, size: int) -> Tensor:
    """A grey square around each centre, cut off at the border (DeVries & Taylor 2017)."""
    inside = []
    for side, drawn in zip(images.shape[2:], centres.T, strict=True):
        first = drawn[:, None] * side // _FINE - size // 2
        pixels = torch.arange(side, device=centres.device)
        inside.append((pixels >= first) & (pixels < first + size))
    cut = (inside[0][:, None, :, None] & inside[1][:, None, None, :]).to(torch.uint8)
    return images.mul(1 - cut).add_(cut * GREY)  # ten times as fast on a CPU as to fill by a mask
