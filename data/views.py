"""Encoded bytes to the pixels of a view, as fast as they can be had."""

import io
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import ImageReadMode, decode_jpeg

from data.decode import Box, Crop, crop_pixels, read_as_is, to_pixels

_JPEG = ("jpg", "jpeg")
_MODES = {1: ImageReadMode.GRAY, 3: ImageReadMode.RGB}


def decode_view(payload: bytes, crop: Crop | None, image_size: int) -> Tensor:
    """The part of an image that `crop` picks, resized; or all of it as it is. Returns (C, S, S) uint8.

    Boxes of whole pixels (random crops) are cut out and resized by torch, much faster than by Pillow and within
    an 8-bit level of it. Others (the test view, on which figures depend) are Pillow's.
    """
    return view_of(Image.open(io.BytesIO(payload)), payload, crop, image_size)


def decode_found(payload: bytes, crop: Crop | None, image_size: int, channels: int) -> Tensor:
    """As `decode_view`, of a file that somebody else wrote: any mode, any orientation."""
    image = read_as_is(partial(Image.open, io.BytesIO(payload)), channels=channels)
    return view_of(image, None, crop, image_size)


def view_of(image: Image.Image, jpeg: bytes | None, crop: Crop | None, image_size: int) -> Tensor:
    """`jpeg`: the bytes behind an image that has not been decoded."""
    if crop is None:
        return torch.from_numpy(to_pixels(image).copy())
    box = crop(*image.size)
    if any(side != int(side) for side in box):
        return torch.from_numpy(crop_pixels(image, lambda width, height: box, image_size).copy())
    if jpeg is not None and image.format == "JPEG":
        mode = _MODES[len(image.getbands())]
        pixels = decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8), mode=mode)
    else:
        pixels = torch.from_numpy(np.array(image)).view(image.height, image.width, -1).permute(2, 0, 1)
    return resized_crop(pixels, box, image_size)


def resized_crop(pixels: Tensor, box: Box, image_size: int) -> Tensor:
    """A box of whole pixels, antialiased bicubic. pixels: (C, H, W) uint8. Returns (C, S, S) uint8."""
    left, upper, right, lower = (int(side) for side in box)
    part = pixels[:, upper:lower, left:right].unsqueeze(0).contiguous(memory_format=torch.channels_last)
    size = (image_size, image_size)
    return F.interpolate(part, size, mode="bicubic", antialias=True, align_corners=False)[0]
