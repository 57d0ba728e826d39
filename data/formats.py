"""Opening image files: of the kinds that count as images here, whatever else Pillow knows."""

from functools import cache
from pathlib import Path
from typing import IO

from PIL import Image

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM")  # of IMAGE_SUFFIXES


def open_image(file: str | Path | IO[bytes]) -> Image.Image:
    """As `Image.open`, which goes by contents: to decode an EPS called x.png it would run Ghostscript."""
    return Image.open(file, formats=_known_formats())


@cache
def _known_formats() -> tuple[str, ...]:
    """Those that this Pillow was built with."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)
