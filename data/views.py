"""Encoded bytes to the pixels of one or several views, as fast as they can be had."""

import io
from collections.abc import Sequence
from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import ImageReadMode, decode_jpeg

from data.crops import CentreCrop
from data.decode import Box, Crop, crop_pixels, decode_pixels, read_as_is, to_pixels
from data.formats import open_image

_JPEG = b"\xff\xd8"


def decode_views(payload: bytes, crops: Sequence[Crop | None], image_size: int) -> list[Tensor]:
    """An image's parts that the crops pick, from one decoding; None: all of it. (C, S, S) uint8 each."""
    pixels = _decode(payload)
    return [view_of(pixels, crop, image_size) for crop in crops]


def decode_found_views(
    payload: bytes, crops: Sequence[Crop | None], image_size: int, channels: int
) -> list[Tensor]:
    """As `decode_views`, of a file that somebody else wrote: any mode, any orientation."""
    image = read_as_is(partial(open_image, io.BytesIO(payload)), channels=channels)
    pixels = torch.from_numpy(to_pixels(image).copy())
    return [view_of(pixels, crop, image_size) for crop in crops]


def view_of(pixels: Tensor, crop: Crop | None, image_size: int) -> Tensor:
    """pixels: (C, H, W) uint8. Returns (C, S, S) uint8.

    Boxes of whole pixels (training) are cut out and resized by torch, bilinear, antialiased, as torchvision
    does it. The test view, on which figures depend, and parts of pixels are resized by Pillow, bicubic.
    """
    if crop is None:
        return pixels
    box = crop(pixels.shape[2], pixels.shape[1])
    if not isinstance(crop, CentreCrop) and all(side == int(side) for side in box):
        return _resized_crop(pixels, box, image_size)
    return torch.from_numpy(crop_pixels(to_image(pixels), lambda width, height: box, image_size).copy())


def to_image(pixels: Tensor) -> Image.Image:
    """(C, H, W) uint8, one channel or three."""
    array = pixels.permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def _decode(payload: bytes) -> Tensor:
    """(C, H, W) uint8. Torch and Pillow decode JPEG by the same library to the same pixels, torch faster."""
    if payload.startswith(_JPEG):
        return decode_jpeg(torch.frombuffer(bytearray(payload), dtype=torch.uint8), ImageReadMode.UNCHANGED)
    return torch.from_numpy(decode_pixels(payload).copy())


def _resized_crop(pixels: Tensor, box: Box, image_size: int) -> Tensor:
    left, upper, right, lower = (int(side) for side in box)
    part = pixels[:, upper:lower, left:right].unsqueeze(0).contiguous(memory_format=torch.channels_last)
    size = (image_size, image_size)
    return F.interpolate(part, size, mode="bilinear", antialias=True, align_corners=False)[0]
