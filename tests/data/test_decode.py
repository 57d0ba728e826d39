"""Every kind of image file to square 8-bit pixels; hostile ones are undecodable."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from data.decode import UndecodableError, decode_pixels, encode_jpeg, encode_png, read_frame, read_square
from tests.support.data_files import picture
from tests.support.hostile import Answer, ask_each
from tests.support.hostile_files import ASK_IMAGE, MEGABYTES
from tests.support.pixels import smooth_image

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


def reopened(image: Image.Image, kind: str, orientation: int = 0, **options: object) -> Image.Image:
    """The image as a file of that kind is opened."""
    buffer, exif = io.BytesIO(), Image.Exif()
    if orientation:
        exif[ExifTags.Base.Orientation] = orientation
        options["exif"] = exif
    image.save(buffer, kind, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


def square(image: Image.Image, size: int, channels: int = 3) -> np.ndarray:
    result = read_square(lambda: image, channels=channels, image_size=size)
    assert (result.size, result.mode) == ((size, size), {1: "L", 3: "RGB"}[channels])
    return np.asarray(result)


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("orientation", [*SHOWN, 9, 255])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_kind_is_upright(kind, orientation):
    """Undefined orientations change nothing. Pillow turns TIFFs itself when it loads them."""
    shades = np.kron(np.array([[0, 80], [160, 240]], dtype=np.uint8), np.ones((16, 16), dtype=np.uint8))
    stored = np.repeat(shades[..., None], 3, axis=2)
    image = reopened(Image.fromarray(stored), kind, orientation=orientation)
    expected = SHOWN.get(orientation, SHOWN[1])(stored)
    assert np.abs(square(image, 32).astype(int) - expected).max() <= 12


@pytest.mark.parametrize(
    ("tag", "kind", "content"),
    [(0x0100, 1, b"\x05\x00\x00\x00"), (0x010E, 5, b"\x1a\x00\x00\x00"), (0x011A, 2, b"ab\x00\x00")],
    ids=["width as a byte", "description as a rational", "resolution as text"],
)
def test_odd_exif_tags_beside_the_orientation(tmp_path, tag, kind, content):
    """ImageOps.exif_transpose writes the tags anew, and fails on these."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHI", tag, kind, 1) + content
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + b"\0" * 12
    Image.new("RGB", (30, 20)).save(tmp_path / "odd.jpg", exif=exif)
    opened = read_frame(lambda: Image.open(tmp_path / "odd.jpg"), channels=3, short_side=100)
    assert opened.size == (20, 30)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
def test_grey_stays_grey_or_becomes_equal_channels(channels):
    stored = random_pixels(4, 4)
    result = square(reopened(Image.fromarray(stored), "PNG"), 4, channels).reshape(4, 4, -1)
    assert np.array_equal(result, np.repeat(stored[..., None], channels, axis=2))


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


RED, GREEN, NAVY, WHITE = [255, 0, 0], [0, 128, 0], [10, 20, 30], [255, 255, 255]
COLOURS = Image.fromarray(np.array([[RED, GREEN], [NAVY, RED]], dtype=np.uint8))
PALETTE = COLOURS.quantize(3)
GREEN_PLACE = PALETTE.getpixel((1, 0))


@pytest.mark.parametrize(
    ("image", "kind", "transparency", "expected"),
    [
        (PALETTE, "PNG", None, [[RED, GREEN], [NAVY, RED]]),
        (PALETTE, "GIF", None, [[RED, GREEN], [NAVY, RED]]),
        (PALETTE, "BMP", None, [[RED, GREEN], [NAVY, RED]]),
        (PALETTE, "PNG", GREEN_PLACE, [[RED, WHITE], [NAVY, RED]]),
        (PALETTE, "GIF", GREEN_PLACE, [[RED, WHITE], [NAVY, RED]]),
        (PALETTE, "PNG", bytes(255 * (n != GREEN_PLACE) for n in range(3)), [[RED, WHITE], [NAVY, RED]]),
        (COLOURS, "PNG", tuple(GREEN), [[RED, WHITE], [NAVY, RED]]),
    ],
)
def test_transparent_colours_are_white(image, kind, transparency, expected):
    options = {} if transparency is None else {"transparency": transparency}
    assert square(reopened(image, kind, **options), 2).tolist() == expected


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGBA"), ("TIFF", "RGBA"), ("PNG", "LA")])
def test_alpha_is_laid_on_white(kind, mode):
    colours = [[[200, 100, 0, 255], [200, 100, 0, 0]], [[0, 0, 0, 128], [255, 0, 0, 128]]]
    image = Image.fromarray(np.array(colours, dtype=np.uint8)).convert(mode)
    pixels = np.asarray(image.convert("RGBA"))
    alpha = pixels[..., 3:] / 255
    result = square(reopened(image, kind), 2)
    assert np.abs(result - (pixels[..., :3] * alpha + 255 * (1 - alpha))).max() <= 1
    assert result[0].tolist() == [pixels[0, 0, :3].tolist(), WHITE]


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
@pytest.mark.parametrize(("kind", "order"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2")])
def test_16_bit_is_scaled(kind, order, channels):
    values = np.array([[0, 255, 256], [4096, 32768, 40000], [65280, 65534, 65535]])
    image = reopened(Image.fromarray(values.astype(order)), kind)
    assert image.mode.startswith("I;16")
    result = square(image, 3, channels).reshape(3, 3, -1)
    assert np.abs(result - values[..., None] / 257).max() <= 1
    assert (result.min(), result.max()) == (0, 255)


def tiff(values: object, dtype: type) -> Image.Image:
    return reopened(Image.fromarray(np.array(values, dtype=dtype)), "TIFF")


def pgm(values: list[int]) -> Image.Image:
    payload = b"P5 2 2 65535\n" + np.array(values, dtype=">u2").tobytes()
    return Image.open(io.BytesIO(payload))


@pytest.mark.parametrize(
    ("image", "mode", "expected"),
    [
        (tiff([[0, 7], [8, 255]], np.int32), "I", [0, 7, 8, 255]),
        (tiff([[0, 256], [512, 65535]], np.int32), "I", [0, 1, 2, 255]),
        (tiff([[0.5, 0.25], [np.inf, np.nan]], np.float32), "F", [128, 64, 255, 0]),
        (pgm([0, 200, 255, 65535]), "I", [0, 0, 0, 255]),
        (pgm([0, 200, 200, 0]), "I", [0, 0, 0, 0]),
        (reopened(Image.fromarray(np.eye(2, dtype=bool)), "PNG"), "1", [255, 0, 0, 255]),
    ],
    ids=["8 bits in 32", "16 in 32", "not finite", "16 bits", "dark 16 bits", "one bit"],
)
def test_values_of_other_depths(image, mode, expected):
    assert image.mode == mode
    assert square(image, 2, channels=1).ravel().tolist() == expected


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_several_is_taken(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    image = reopened(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert image.n_frames == 3
    assert np.array_equal(square(image, 8), np.asarray(frames[0]))


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_truncated_file_is_undecodable(kind, kept):
    payload = picture(0, (64, 64), kind=kind)
    cut = io.BytesIO(payload[: int(kept * len(payload))])
    with pytest.raises(UndecodableError, match=r"\w"):
        read_square(lambda: Image.open(cut), channels=3, image_size=8)


def test_damaged_pixels_are_undecodable():
    payload = bytearray(picture(0, (64, 64)))
    payload[len(payload) // 2] ^= 0xFF
    with pytest.raises(UndecodableError):
        read_square(lambda: Image.open(io.BytesIO(payload)), channels=3, image_size=8)


@pytest.mark.parametrize("shape", [(1, 1), (3000, 1), (1, 3000), (1000, 3), (2, 999)], ids=str)
def test_extreme_proportions(shape):
    image = Image.new("RGB", shape, (9, 80, 200))
    assert np.array_equal(square(image, 8), np.full((8, 8, 3), (9, 80, 200)))


@pytest.mark.parametrize("scale", [1, 2, 5])
@pytest.mark.parametrize("axis", [0, 1], ids=["tall", "wide"])
def test_centre_is_cropped_and_the_short_side_sets_the_scale(axis, scale):
    blocks = [np.full((8 * scale, 8 * scale), value, dtype=np.uint8) for value in (0, 100, 200)]
    result = square(Image.fromarray(np.concatenate(blocks, axis=axis)), 8, channels=1)
    inside = result if scale == 1 else result[1:-1, 1:-1]  # resizing blurs the border
    assert np.abs(inside.astype(int) - 100).max() <= 2


def test_shrinking_is_antialiased():
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255
    result = square(Image.fromarray(checks.astype(np.uint8)), 8, channels=1)
    assert np.abs(result.astype(int) - 127).max() < 10


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(("encode", "error"), [(encode_png, 0), (encode_jpeg, 8)], ids=["png", "jpg"])
def test_encoded_pixels_come_back(encode, error, mode):
    image = smooth_image(64, 48, mode)
    payload = encode(image)
    assert payload == encode(image)
    decoded, pixels = decode_pixels(payload), np.asarray(image).reshape(48, 64, -1).transpose(2, 0, 1)
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - pixels).max() <= error
    if encode is encode_jpeg and mode == "RGB":
        layers = Image.open(io.BytesIO(payload)).layer
        assert [layer[1:3] for layer in layers] == [(1, 1)] * 3  # no subsampling


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


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def raw_png(width: int, height: int, *before: bytes, after: bytes = b"") -> bytes:
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(min(height, 8) * (3 * min(width, 8) + 1))))
    parts = (chunk(b"IHDR", size), *before, pixels, after, chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff_of_lines(num: int) -> bytes:
    """The file of an 8x8 TIFF with another number of lines noted."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "TIFF")
    return buffer.getvalue().replace(struct.pack("<HHII", 257, 4, 1, 8), struct.pack("<HHII", 257, 4, 1, num))


def webp(kind: bytes, content: bytes) -> bytes:
    body = b"WEBP" + kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif(screen: int, frame: int) -> bytes:
    size, place = struct.pack("<HH", screen, screen), struct.pack("<HHHH", 0, 0, frame, frame)
    return b"GIF89a" + size + b"\x80\0\0" + bytes(6) + b"," + place + b"\0\x02\x02\x44\x01\0;"


INFLATED = zlib.compress(bytes(64 << 20), 9)
BOMB = "decompression bomb"
IMAGES = {
    "a png of 100,000 pixels a side": (raw_png(100_000, 100_000), BOMB),
    "a frame larger than its gif": (gif(8, 65_535), BOMB),
    "a tiff of a hundred million lines": (tiff_of_lines(100_000_000), BOMB),
    "a webp of 16,383": (
        webp(b"VP8L", b"\x2f" + struct.pack("<I", 16_382 | 16_382 << 14) + bytes(100)),
        BOMB,
    ),
    "a text that inflates": (raw_png(8, 8, chunk(b"zTXt", b"a\0\0" + INFLATED)), "MAX_TEXT_CHUNK"),
    "a text behind the pixels": (raw_png(8, 8, after=chunk(b"zTXt", b"a\0\0" + INFLATED)), "MAX_TEXT_CHUNK"),
    "a profile that inflates": (raw_png(8, 8, chunk(b"iCCP", b"a\0\0" + INFLATED)), "MAX_TEXT_CHUNK"),
    "many texts": (
        raw_png(8, 8, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes((1 << 20) - 1)))] * 80),
        "MAX_TEXT_MEMORY",
    ),
    "a png of a short header": (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"\0\0\0\1"), "IHDR"),
    "an eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "not an image"),
    "a psd": (b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(206), "not an image"),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """What is said of each image, where a Ghostscript would leave a mark."""
    folder = tmp_path_factory.mktemp("images")
    ghostscript, mark = folder / "gs", folder / "ran"
    ghostscript.write_text(f"#!/bin/sh\ntouch {mark}\n")
    ghostscript.chmod(0o755)
    files = {}
    for number, (name, (content, _)) in enumerate(IMAGES.items()):
        files[name] = folder / f"{number}.png"
        files[name].write_bytes(content)
    answers = ask_each(ASK_IMAGE, files, path=str(folder))
    assert not mark.exists()
    return answers


@pytest.mark.parametrize("name", IMAGES)
def test_hostile_image_is_undecodable(images, name):
    assert images[name].said.startswith("UndecodableError: ")
    assert IMAGES[name][1] in images[name].said
    assert images[name].megabytes < MEGABYTES
