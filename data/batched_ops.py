"""Image operations on a batch of 8-bit images, each image with its own magnitude.

Every operation takes images (B, C, H, W) uint8 with C = 1 or 3, on any device, and magnitudes (B,) float64
in numpy, and returns images like them. Bit for bit it is what torchvision's AutoAugment does to one image
after the other on the CPU (Contrast up to 65,793 pixels; beyond, a mean's last bit is a matter of order).
"""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.devices import to_device

Floats = np.ndarray[tuple[Any, ...], np.dtype[np.float64]]
Operation = Callable[[Tensor, Floats], Tensor]
GREY = 128  # what comes in where a moved image ends


def _column(values: Floats, images: Tensor) -> Tensor:
    """(B,) numbers as (B, 1, 1, 1) float32 beside the images."""
    column = torch.from_numpy(values.astype(np.float32)).view(-1, 1, 1, 1)
    return to_device(column, images.device)


def _matrix(name: str, magnitude: float, height: int, width: int) -> list[float]:
    """Where a pixel comes from, around the centre: x' = a x + b y + c, y' = d x + e y + f; as [a, ..., f].

    Rounded as in torchvision, which shears around the corner.
    """
    x, y, slope = width * 0.5, height * 0.5, math.radians(math.degrees(math.atan(magnitude)))
    if name == "ShearX":
        slope = math.tan(slope)
        return [1.0, slope, x + slope * y - x, 0.0, 1.0, 0.0]
    if name == "ShearY":
        slope = math.sin(slope) / math.cos(slope)
        return [1.0, 0.0, 0.0, slope, 1.0, slope * x + y - y]
    if name == "Rotate":
        angle = math.radians(-magnitude)
        return [math.cos(angle), math.sin(angle), 0.0, -math.sin(angle), math.cos(angle), 0.0]
    shift = -float(int(magnitude))
    return [
        1.0,
        0.0,
        shift if name == "TranslateX" else 0.0,
        0.0,
        1.0,
        shift if name == "TranslateY" else 0.0,
    ]


@lru_cache(maxsize=128)
def _sources(name: str, magnitude: float, height: int, width: int, device: torch.device) -> Tensor:
    """For each pixel the number of the nearest to where it comes from, from 1 on; 0 is outside.

    (H * W,) int64: what torchvision's own steps in float32 pick out of an image of pixel numbers.
    """
    theta = torch.tensor(_matrix(name, magnitude, height, width), dtype=torch.float32).view(1, 2, 3)
    grid = torch.ones(1, height, width, 3)
    grid[..., 0] = torch.linspace(0.5 - width * 0.5, width * 0.5 - 0.5, width)
    grid[..., 1] = torch.linspace(0.5 - height * 0.5, height * 0.5 - 0.5, height)[:, None]
    scaled = theta.transpose(1, 2) / torch.tensor([0.5 * width, 0.5 * height])
    grid = grid.view(1, -1, 3).bmm(scaled).view(1, height, width, 2)
    pixels = torch.arange(1.0, height * width + 1).view(1, 1, height, width)
    picked = F.grid_sample(pixels, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return to_device(picked.flatten().long(), device)


def _move(name: str, images: Tensor, magnitudes: Floats) -> Tensor:
    """ShearX, ShearY (slopes), TranslateX, TranslateY (pixels), Rotate (degrees), around the centre."""
    _, channels, height, width = images.shape
    distinct, which = np.unique(magnitudes, return_inverse=True)
    sources = [_sources(name, float(magnitude), height, width, images.device) for magnitude in distinct]
    rows = to_device(torch.from_numpy(which), images.device)
    at = torch.stack(sources).index_select(0, rows)[:, None].expand(-1, channels, -1)
    return F.pad(images.flatten(2), (1, 0), value=GREY).gather(2, at).view_as(images)


def _blend(images: Tensor, other: Tensor, magnitudes: Floats) -> Tensor:
    """1 + magnitude parts of the image and the rest, down to -0.9, of the other."""
    share = 1.0 + magnitudes
    mixed = _column(share, images) * images + _column(1.0 - share, images) * other
    return mixed.clamp_(0, 255).to(torch.uint8)


def _luma(images: Tensor) -> Tensor:
    """(B, 1, H, W) uint8: rounded down; of a grey image itself."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).to(torch.uint8)[:, None]


def _brightness(images: Tensor, magnitudes: Floats) -> Tensor:
    return (_column(1.0 + magnitudes, images) * images).clamp_(0, 255).to(torch.uint8)


def _color(images: Tensor, magnitudes: Floats) -> Tensor:
    return images if images.shape[1] == 1 else _blend(images, _luma(images), magnitudes)


def _contrast(images: Tensor, magnitudes: Floats) -> Tensor:
    """Against the mean of the luma."""
    luma = _luma(images)
    sums = luma.sum(dim=(1, 2, 3), keepdim=True, dtype=torch.float32)
    mean = sums / torch.full_like(sums, luma[0].numel())  # by a number, a GPU would multiply by its inverse
    return _blend(images, mean, magnitudes)


def _sharpness(images: Tensor, magnitudes: Floats) -> Tensor:
    """Against a blur of 3 x 3 pixels, the middle counting 5 of 13; the border is not blurred."""
    if min(images.shape[2:]) <= 2:
        return images
    exact = images.float()
    rows = exact[:, :, :-2] + exact[:, :, 1:-1] + exact[:, :, 2:]
    sums = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * exact[:, :, 1:-1, 1:-1]
    exact[:, :, 1:-1, 1:-1] = sums.div_(13).round_()  # a sum of integers over 13 is never a tie
    return _blend(images, exact, magnitudes)


def _posterize(images: Tensor, magnitudes: Floats) -> Tensor:
    """The first int(magnitude) bits are kept."""
    masks = torch.from_numpy((256 - 2 ** (8 - magnitudes.astype(np.int64))).astype(np.uint8))
    return images & to_device(masks.view(-1, 1, 1, 1), images.device)


def _solarize(images: Tensor, magnitudes: Floats) -> Tensor:
    """Inverted from the magnitude on."""
    return torch.where(images >= _column(magnitudes, images), 255 - images, images)


def _auto_contrast(images: Tensor, _: Floats) -> Tensor:
    """Each channel's darkest becomes 0 and its brightest 255; a channel of one value stays."""
    darkest = images.amin(dim=(2, 3), keepdim=True).float()
    scale = 255 / (images.amax(dim=(2, 3), keepdim=True).float() - darkest)
    flat = scale.isinf()
    stretched = (images - darkest.masked_fill(flat, 0)) * scale.masked_fill(flat, 1)
    return stretched.clamp_(0, 255).to(torch.uint8)


def _equalize(images: Tensor, _: Floats) -> Tensor:
    """Each channel's values by rank, so that all are about equally frequent; as in Pillow."""
    pixels = images.flatten(2).long()
    counts = pixels.new_zeros(*pixels.shape[:2], 256)
    counts.scatter_add_(2, pixels, pixels.new_ones(1).expand_as(pixels))
    last = counts.gather(2, pixels.amax(2, keepdim=True))
    step = (pixels.shape[2] - last) // 255
    below = counts.cumsum(2) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    table = torch.where(step == 0, torch.arange(256, device=images.device), table).to(torch.uint8)
    return table.gather(2, pixels).view_as(images)


def _invert(images: Tensor, _: Floats) -> Tensor:
    return 255 - images


OPERATIONS: Mapping[str, Operation] = {
    **{name: partial(_move, name) for name in ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")},
    "Brightness": _brightness,
    "Color": _color,
    "Contrast": _contrast,
    "Sharpness": _sharpness,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Invert": _invert,
}
