"""How much memory and disk a file from elsewhere may take, whatever it claims: in proportion to its size."""

LARGEST_IMAGE = 360 << 20  # bytes of an image file: four for each pixel that Pillow takes for no bomb
LARGEST_NAME = 1_000  # characters of a class name
_LARGEST_RATIO = 100  # of unpacked bytes to packed ones; images are packed already
_FEW = 256 << 20  # unpacked bytes that are never too many


def refuse_large_image(num_bytes: int) -> None:
    """Raises OSError for what no image file has."""
    if num_bytes > LARGEST_IMAGE:
        raise OSError(f"said to have {num_bytes:,} bytes; an image may have {LARGEST_IMAGE:,}")


def refuse_bomb(num_unpacked: int, num_packed: int) -> None:
    """Raises OSError for more bytes than a packed file of images unpacks to."""
    if num_unpacked > (most := max(_FEW, _LARGEST_RATIO * num_packed)):
        raise OSError(
            f"it unpacks to more than {most:,} bytes, as a decompression bomb does: unpack it yourself if "
            "you trust it"
        )
