"""Every kind of image file to square 8-bit pixels."""

import io
import struct

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from data.decode import (
    UndecodableError,
    decode_pixels,
    encode_jpeg,
    encode_png,
    read_frame,
    read_square,
)

ORIENTATION = 0x0112
SHOWN = {  # what a viewer shows for stored pixels, by EXIF orientation
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, k=-1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, k=1),
}


def reopened(image: Image.Image, kind: str, **options: object) -> Image.Image:
    """The image as a file of that kind is opened."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


def square(image: Image.Image, size: int, channels: int = 3) -> np.ndarray:
    result = read_square(lambda: image, channels=channels, image_size=size)
    assert (result.size, result.mode) == ((size, size), {1: "L", 3: "RGB"}[channels])
    return np.asarray(result)


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("orientation", SHOWN)
def test_exif_orientation_is_applied(orientation):
    stored = random_pixels(4, 4, 3)
    image = reopened(Image.fromarray(stored), "PNG", exif=oriented(orientation))
    assert np.array_equal(square(image, 4), SHOWN[orientation](stored))


@pytest.mark.parametrize("orientation", SHOWN)
def test_exif_orientation_of_a_jpeg_is_applied(orientation):
    stored = np.zeros((16, 16, 3), dtype=np.uint8)
    stored[:8, :8], stored[:8, 8:], stored[8:, :8] = 255, 170, 85
    image = reopened(Image.fromarray(stored), "JPEG", quality=95, exif=oriented(orientation))
    error = square(image, 16).astype(int) - SHOWN[orientation](stored)
    assert np.abs(error).max() < 20


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_undefined_exif_orientation_changes_nothing(orientation):
    stored = random_pixels(4, 4, 3)
    image = reopened(Image.fromarray(stored), "PNG", exif=oriented(orientation))
    assert np.array_equal(square(image, 4), stored)


def test_grey_becomes_three_equal_channels():
    stored = random_pixels(4, 4)
    result = square(reopened(Image.fromarray(stored), "PNG"), 4)
    assert all(np.array_equal(result[..., channel], stored) for channel in range(3))


def test_grey_stays_grey():
    stored = random_pixels(4, 4)
    assert np.array_equal(square(reopened(Image.fromarray(stored), "PNG"), 4, channels=1), stored)


def test_colour_becomes_luma():
    stored = random_pixels(4, 4, 3)
    luma = stored @ np.array([0.299, 0.587, 0.114])
    assert np.abs(square(Image.fromarray(stored), 4, channels=1) - luma).max() <= 1


@pytest.mark.parametrize(
    ("ink", "colour"),
    [((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 0), (255, 255, 255)), ((0, 0, 0, 255), (0, 0, 0))],
    ids=["red", "white", "black"],
)
@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind, ink, colour):
    result = square(reopened(Image.new("CMYK", (8, 8), ink), kind), 8)
    assert np.abs(result.astype(int) - colour).max() <= 4


def palette_image() -> Image.Image:
    image = Image.new("P", (2, 2))
    image.putpalette([255, 0, 0, 0, 128, 0, 10, 20, 30])
    image.putdata([0, 1, 2, 0])
    return image


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
def test_palette(kind):
    expected = [[[255, 0, 0], [0, 128, 0]], [[10, 20, 30], [255, 0, 0]]]
    assert square(reopened(palette_image(), kind), 2).tolist() == expected


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_palette_entry_is_white(kind):
    expected = [[[255, 0, 0], [255, 255, 255]], [[10, 20, 30], [255, 0, 0]]]
    assert square(reopened(palette_image(), kind, transparency=1), 2).tolist() == expected


def test_palette_with_an_alpha_for_each_entry():
    image = reopened(palette_image(), "PNG", transparency=bytes([255, 0, 0]))
    white = [255, 255, 255]
    assert square(image, 2).tolist() == [[[255, 0, 0], white], [white, [255, 0, 0]]]


def test_transparent_colour_is_white():
    pixels = np.array([[[9, 8, 7], [1, 2, 3]], [[1, 2, 4], [1, 2, 3]]], dtype=np.uint8)
    image = reopened(Image.fromarray(pixels), "PNG", transparency=(1, 2, 3))
    white = [255, 255, 255]
    assert square(image, 2).tolist() == [[[9, 8, 7], white], [[1, 2, 4], white]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_alpha_is_laid_on_white(kind):
    pixels = np.array(
        [[[200, 100, 0, 255], [200, 100, 0, 0]], [[0, 0, 0, 128], [255, 0, 0, 128]]], dtype=np.uint8
    )
    alpha = pixels[..., 3:] / 255
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    result = square(reopened(Image.fromarray(pixels), kind), 2)
    assert np.abs(result - expected).max() <= 1
    assert result[0].tolist() == [[200, 100, 0], [255, 255, 255]]


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
def test_grey_with_alpha_is_laid_on_white(channels):
    image = Image.new("LA", (2, 1))
    image.putdata([(40, 255), (40, 0)])
    image = image.resize((2, 2), Image.Resampling.NEAREST)
    result = square(reopened(image, "PNG"), 2, channels).reshape(2, 2, -1)
    assert result[:, 0].max() == result[:, 0].min() == 40
    assert result[:, 1].min() == 255


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
@pytest.mark.parametrize(("kind", "order"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2")])
def test_16_bit_is_scaled(kind, order, channels):
    values = np.array([[0, 255, 256], [4096, 32768, 40000], [65280, 65534, 65535]])
    image = reopened(Image.fromarray(values.astype(order)), kind)
    assert image.mode.startswith("I;16")
    result = square(image, 3, channels).reshape(3, 3, -1)
    assert np.abs(result - values[..., None] / 257).max() <= 1
    assert (result.min(), result.max()) == (0, 255)


@pytest.mark.parametrize(("values", "expected"), [([0, 7, 255], [0, 7, 255]), ([0, 256, 65535], [0, 1, 255])])
def test_32_bits_hold_8_or_16(values, expected):
    image = reopened(Image.fromarray(np.array([values] * 3, dtype=np.int32)), "TIFF")
    assert image.mode == "I"
    assert square(image, 3, channels=1)[0].tolist() == expected


def test_a_dark_16_bit_pgm_is_dark():
    payload = b"P5 2 2 65535\n" + np.array([0, 200, 255, 65535], dtype=">u2").tobytes()
    image = Image.open(io.BytesIO(payload))
    assert square(image, 2, channels=1).ravel().tolist() == [0, 0, 0, 255]
    image = Image.open(io.BytesIO(b"P5 2 1 65535\n" + np.array([0, 200], dtype=">u2").tobytes()))
    assert square(image, 1, channels=1).max() == 0


def test_what_is_not_finite_is_the_end_of_the_range():
    values = np.array([[0.5, 0.25], [np.inf, np.nan]], dtype=np.float32)
    result = square(reopened(Image.fromarray(values), "TIFF"), 2, channels=1)
    assert result.ravel().tolist() == [128, 64, 255, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_kind_is_upright(kind, orientation):
    """Pillow turns TIFFs itself when it loads them."""
    shades = Image.fromarray(np.array([[0, 80], [160, 240]], dtype=np.uint8))
    shades = shades.resize((32, 32), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    shades.convert("RGB").save(buffer, kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue())))
    expected = np.asarray(upright.convert("L")).astype(int)
    result = square(Image.open(io.BytesIO(buffer.getvalue())), 32, channels=1).reshape(32, 32).astype(int)
    assert np.abs(result - expected).max() <= 12


def test_one_bit_is_black_and_white():
    image = Image.new("1", (2, 2))
    image.putdata([255, 0, 0, 255])
    assert square(reopened(image, "PNG"), 2, channels=1).tolist() == [[255, 0], [0, 255]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_several_is_taken(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    image = reopened(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert image.n_frames == 3
    assert np.array_equal(square(image, 8), np.asarray(frames[0]))


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_truncated_file_is_undecodable(kind, kept):
    buffer = io.BytesIO()
    Image.fromarray(random_pixels(64, 64, 3)).save(buffer, kind)
    payload = buffer.getvalue()
    image = Image.open(io.BytesIO(payload[: int(kept * len(payload))]))
    with pytest.raises(UndecodableError, match=r"\w"):
        read_square(lambda: image, channels=3, image_size=8)


def test_damaged_pixels_are_undecodable():
    buffer = io.BytesIO()
    Image.fromarray(random_pixels(64, 64, 3)).save(buffer, "PNG")
    payload = bytearray(buffer.getvalue())
    payload[len(payload) // 2] ^= 0xFF
    with pytest.raises(UndecodableError):
        read_square(lambda: Image.open(io.BytesIO(payload)), channels=3, image_size=8)


@pytest.mark.parametrize("size", [1, 4, 9])
def test_one_pixel_fills_the_square(size):
    assert np.array_equal(
        square(Image.new("RGB", (1, 1), (9, 80, 200)), size), np.full((size, size, 3), (9, 80, 200))
    )


@pytest.mark.parametrize("shape", [(3000, 1), (1, 3000), (1000, 3), (2, 999)], ids=str)
def test_extreme_proportions(shape):
    image = Image.new("RGB", shape, (9, 80, 200))
    assert np.array_equal(square(image, 8), np.full((8, 8, 3), (9, 80, 200)))


@pytest.mark.parametrize("axis", [0, 1], ids=["tall", "wide"])
def test_centre_is_cropped(axis):
    blocks = [random_pixels(4, 4, 3) // 4 + offset for offset in (0, 90, 180)]
    image = Image.fromarray(np.concatenate(blocks, axis=axis))
    assert np.array_equal(square(image, 4), blocks[1])


@pytest.mark.parametrize("scale", [2, 5], ids=["half", "fifth"])
def test_short_side_sets_the_scale(scale):
    blocks = [np.full((8 * scale, 8 * scale), value, dtype=np.uint8) for value in (0, 100, 200)]
    result = square(Image.fromarray(np.concatenate(blocks, axis=1)), 8, channels=1)
    assert np.abs(result[:, 1:-1].astype(int) - 100).max() <= 2


def test_shrinking_is_antialiased():
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255
    result = square(Image.fromarray(checks.astype(np.uint8)), 8, channels=1)
    assert np.abs(result.astype(int) - 127).max() < 10


def test_right_size_is_untouched():
    stored = random_pixels(16, 16, 3)
    assert np.array_equal(square(Image.fromarray(stored), 16), stored)


@pytest.mark.parametrize("shape", [(1, 5, 5), (3, 5, 5)], ids=["grey", "rgb"])
def test_png_round_trip(shape):
    pixels = random_pixels(*shape)
    image = Image.fromarray(pixels[0] if shape[0] == 1 else pixels.transpose(1, 2, 0))
    payload = encode_png(image)
    assert payload == encode_png(image)
    decoded = decode_pixels(payload)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, pixels)


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((40, 30), 30, (40, 30)),
        ((40, 30), 31, (40, 30)),
        ((40, 30), 15, (20, 15)),
        ((30, 40), 15, (15, 20)),
        ((500, 375), 256, (341, 256)),
        ((3000, 2), 1, (1500, 1)),
        ((7, 7), 3, (3, 3)),
    ],
    ids=str,
)
def test_frame_keeps_its_shape_and_never_grows(size, short_side, expected):
    image = Image.fromarray(random_pixels(size[1], size[0], 3))
    frame = read_frame(lambda: image, channels=3, short_side=short_side)
    assert frame.size == expected
    resized = image.resize(expected, Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(frame), np.asarray(resized))


@pytest.mark.parametrize("orientation", SHOWN)
def test_frame_is_upright(orientation):
    stored = random_pixels(4, 6, 3)
    image = reopened(Image.fromarray(stored), "PNG", exif=oriented(orientation))
    frame = read_frame(lambda: image, channels=3, short_side=4)
    assert np.array_equal(np.asarray(frame), SHOWN[orientation](stored))


def test_damaged_frame_is_undecodable():
    with pytest.raises(UndecodableError, match="not an image"):
        read_frame(lambda: Image.open(io.BytesIO(b"no image")), channels=3, short_side=4)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_is_near_the_pixels_in_every_colour(mode):
    coarse = Image.fromarray(random_pixels(4, 4, 3)).resize((64, 48)).convert(mode)
    payload = encode_jpeg(coarse)
    assert payload == encode_jpeg(coarse)
    pixels = np.asarray(coarse)[None] if mode == "L" else np.asarray(coarse).transpose(2, 0, 1)
    assert np.abs(decode_pixels(payload).astype(int) - pixels).max() <= 8
    if mode == "RGB":
        layers = Image.open(io.BytesIO(payload)).layer
        assert [layer[1:3] for layer in layers] == [(1, 1)] * 3  # no subsampling


@pytest.mark.parametrize(
    ("tag", "kind", "content"),
    [(0x0100, 1, b"\x05\x00\x00\x00"), (0x010E, 5, b"\x1a\x00\x00\x00"), (0x011A, 2, b"ab\x00\x00")],
    ids=["width as a byte", "description as a rational", "resolution as text"],
)
def test_odd_exif_tags_beside_the_orientation(tmp_path, tag, kind, content):
    """ImageOps.exif_transpose writes the tags anew, and fails on these."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHI", tag, kind, 1) + content
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + b"\0" * 12
    picture.save(tmp_path / "odd.jpg", exif=exif, quality=100)
    opened = read_frame(lambda: Image.open(tmp_path / "odd.jpg"), channels=3, short_side=100)
    assert opened.size == (20, 30)
