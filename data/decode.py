"""Any image file to the square 8-bit image that training needs."""

import io

import numpy as np
from PIL import Image, ImageOps

_MODES = {1: "L", 3: "RGB"}


class UndecodableError(ValueError):
    """An image that could not be read; the text says why."""


def to_square(image: Image.Image, *, channels: int, image_size: int) -> Image.Image:
    """Upright, in RGB or grey, short side resized to `image_size` (bicubic, antialiased), centre-cropped.

    EXIF orientation is applied, transparency laid on white, 16-bit scaled to 8, the first frame of an
    animation taken; colour profiles are ignored. Raises UndecodableError on damage and on images whose
    size makes Pillow suspect a decompression bomb.
    """
    try:
        return _crop_square(_as_mode(ImageOps.exif_transpose(image), _MODES[channels]), image_size)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UndecodableError(str(error) or type(error).__name__) from error


def _as_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _crop_square(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)


def encode_png(image: Image.Image) -> bytes:
    """Lossless bytes; the same pixels give the same bytes under one version of Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=False, compress_level=6)
    return buffer.getvalue()


def decode_pixels(payload: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Encoded image bytes to (C, H, W) uint8."""
    pixels = np.asarray(Image.open(io.BytesIO(payload)))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
