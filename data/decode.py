"""Any image file to the square 8-bit image that training needs."""

import io
import warnings
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

_MODES = {1: "L", 3: "RGB"}
_DAMAGE = (
    ValueError,
    SyntaxError,
    EOFError,
    MemoryError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


class UndecodableError(ValueError):
    """An image that could not be read; the text says why."""


def read_square(opener: Callable[[], Image.Image], *, channels: int, image_size: int) -> Image.Image:
    """Opens an image and makes it upright, RGB or grey, and square.

    EXIF orientation is applied, transparency laid on white, 16-bit scaled to 8, the first frame of an
    animation taken; colour profiles are ignored. The short side is resized to `image_size` (bicubic,
    antialiased) and the centre cropped. Raises UndecodableError on damage and on images whose size makes
    Pillow suspect a decompression bomb.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with opener() as image:
                upright = ImageOps.exif_transpose(image)
                return _crop_square(_as_mode(upright, _MODES[channels]), image_size)
    except UnidentifiedImageError as error:
        raise UndecodableError("not an image that Pillow knows") from error
    except OSError as error:
        raise UndecodableError(error.strerror or str(error) or type(error).__name__) from error
    except _DAMAGE as error:
        raise UndecodableError(str(error) or type(error).__name__) from error


def _as_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, in 16 or 32
        image = Image.fromarray((np.asarray(image).clip(0, 65535).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        values = values * 255 if values.max() <= 1 else values
        image = Image.fromarray(values.clip(0, 255).round().astype(np.uint8))
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
