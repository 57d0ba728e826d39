"""Random and smooth images for comparing views and augmentations."""

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate


def smooth_image(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Random colours on a coarse grid, spread: like a photograph, little in it lies between two pixels."""
    coarse = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def random_images(num: int, channels: int, height: int, width: int) -> torch.Tensor:
    pixels = np.random.default_rng(num).integers(0, 256, (num, channels, height, width), dtype=np.uint8)
    return torch.from_numpy(pixels)


def smooth_images(num: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Like photographs: neighbours are alike, some are dark, pale or flat."""
    coarse = random_images(num, channels, 4, 4).float()
    coarse *= torch.linspace(0, 1, num).view(-1, 1, 1, 1)  # the first is black
    images = interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255).to(torch.uint8)
    images[1] = 77
    images[2, :, 0, 0] = 255  # of a dark image
    return images


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """(N, C, H, W) to (N, H, W, 3)."""
    return np.repeat(pixels, 3 // pixels.shape[1], axis=1).transpose(0, 2, 3, 1)
