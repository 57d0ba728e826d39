"""Any image file to the 8-bit image that shards hold, and back to pixels."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from data.formats import open_image

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Box = tuple[float, float, float, float]  # left, upper, right, lower
Crop = Callable[[int, int], Box]  # of an image's width and height
_JPEG_SIDE = 65_500
_WEBP_SIDE = 16_383
_MODES = {1: "L", 3: "RGB"}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation
_DAMAGE = (  # what Pillow raises on bytes that are no image
    struct.error,
    zlib.error,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    SyntaxError,
    EOFError,
    MemoryError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


class UndecodableError(ValueError):
    """An image that could not be read, or stored as asked; the text says why."""


def read_square(opener: Callable[[], Image.Image], *, channels: int, image_size: int) -> Image.Image:
    """Opens an image and makes it upright, RGB or grey, and square (short side resized, centre cropped).

    EXIF orientation is applied, transparency laid on white, 16-bit scaled to 8, the first frame of an
    animation taken; colour profiles are ignored; resizing is bicubic, antialiased. Raises UndecodableError on
    damage and on images whose size makes Pillow suspect a decompression bomb.
    """
    return _read(opener, channels, partial(_crop_square, size=image_size))


def read_frame(opener: Callable[[], Image.Image], *, channels: int, short_side: int) -> Image.Image:
    """As `read_square`, but whole: nothing is cropped, and only a longer short side is resized."""
    return _read(opener, channels, partial(_shrink, short_side=short_side))


def read_as_is(opener: Callable[[], Image.Image], *, channels: int) -> Image.Image:
    """As `read_square`, but of its own size."""
    return _read(opener, channels, lambda image: image)


def _read(
    opener: Callable[[], Image.Image], channels: int, fit: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with opener() as image:
                # Not ImageOps.exif_transpose, which writes the tags anew and fails on odd ones. First loaded:
                # Pillow itself turns some kinds (TIFF) then, and takes the tag away.
                image.load()
                orientation = image.getexif().get(ExifTags.Base.Orientation)
                turned = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
                upright = image if turned is None else image.transpose(turned)
                return fit(_as_mode(upright, _MODES[channels]))
    except UnidentifiedImageError as error:
        raise UndecodableError("empty, or not an image that Pillow knows") from error
    except OSError as error:
        raise UndecodableError(error.strerror or str(error) or type(error).__name__) from error
    except _DAMAGE as error:
        raise UndecodableError(str(error) or type(error).__name__) from error


def _as_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits or 32; of 16 the upper 8, as Pillow takes them of colours
        values = np.asarray(image).clip(0, 65535).astype(np.uint32)
        in_32 = image.mode == "I" and image.format != "PPM"  # whose 16 bits Pillow opens as 32
        shift = 0 if in_32 and values.max() <= 255 else 8  # 8 bits in 32 are 8 bits
        image = Image.fromarray((values >> shift).astype(np.uint8))
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image), posinf=np.inf, neginf=0)
        unit = values.max(where=np.isfinite(values), initial=0) <= 1
        image = Image.fromarray((values * 255 if unit else values).clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _crop_square(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)


def _shrink(image: Image.Image, short_side: int) -> Image.Image:
    scale = short_side / min(image.size)
    if scale >= 1:
        return image
    width, height = (max(short_side, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def encode_jpeg(image: Image.Image) -> bytes:
    """Quality 95 without colour subsampling. Raises UndecodableError when a side is too long for libjpeg."""
    if max(image.size) > _JPEG_SIDE:
        raise UndecodableError(f"a side is longer than JPEG's {_JPEG_SIDE:,} pixels; use png")
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def encode_png(image: Image.Image) -> bytes:
    """Lossless bytes; the same pixels give the same bytes under one version of Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=False, compress_level=6)
    return buffer.getvalue()


def encode_webp(image: Image.Image) -> bytes:
    """Lossless bytes, smaller than PNG's. Raises UndecodableError when a side is too long for WebP."""
    if max(image.size) > _WEBP_SIDE:
        raise UndecodableError(f"a side is longer than WebP's {_WEBP_SIDE:,} pixels; use png")
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", lossless=True, quality=50, method=2, exact=True)
    return buffer.getvalue()


ENCODERS = {"png": encode_png, "jpg": encode_jpeg, "webp": encode_webp}  # by the suffix of a shard's members
STORED_AS = {
    "png": "PNG, lossless; resized by Pillow's antialiased bicubic filter",
    "jpg": "JPEG, quality 95, 4:4:4; resized by Pillow's antialiased bicubic filter",
    "webp": "WebP, lossless; resized by Pillow's antialiased bicubic filter",
}


def decode_pixels(payload: bytes) -> Pixels:
    """Encoded image bytes to (C, H, W) uint8."""
    return to_pixels(open_image(io.BytesIO(payload)))


def crop_pixels(image: Image.Image, crop: Crop, image_size: int) -> Pixels:
    """One resampling from the box that `crop` picks for this image's (width, height)."""
    box, size = crop(*image.size), (image_size, image_size)
    return to_pixels(image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=None))


def to_pixels(image: Image.Image) -> Pixels:
    """(C, H, W) uint8."""
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
