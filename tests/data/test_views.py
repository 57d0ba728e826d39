"""Views of an image: its parts as the crops pick them, from one decoding."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from data.crops import random_crop
from data.decode import encode_jpeg, encode_png
from data.images import crop_each
from data.views import decode_views, to_image
from tests.support.pixels import smooth_image


def furthest(pixels: torch.Tensor, image: Image.Image) -> int:
    """The largest difference in 8-bit levels; torch resizes with other rounding than Pillow."""
    expected = np.asarray(image, dtype=np.int64).reshape(*image.size[::-1], -1).transpose(2, 0, 1)
    return int(np.abs(pixels.numpy().astype(np.int64) - expected).max())


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_crop_is_one_resize_of_its_box(mode):
    image, box = smooth_image(40, 30, mode), (3, 5, 23, 17)
    resized, whole = decode_views(encode_png(image), [lambda w, h: box, lambda w, h: (0, 0, w, h)], 8)
    assert furthest(resized, image.crop(box).resize((8, 8), Image.Resampling.BILINEAR)) <= 1
    assert furthest(whole, image.resize((8, 8), Image.Resampling.BILINEAR)) <= 1


def test_a_crop_of_whole_pixels_at_its_own_size_is_exact():
    image = smooth_image(40, 30)
    (got,) = decode_views(encode_png(image), [lambda w, h: (w - 8, h - 8, w, h)], 8)
    assert np.array_equal(got, np.asarray(image)[22:, 32:].transpose(2, 0, 1))


def test_jpeg_crops_are_of_the_decoded_pixels():
    payload = encode_jpeg(smooth_image(640, 480))
    image = Image.open(io.BytesIO(payload)).copy()
    crop = random_crop(3)
    expected = image.crop(crop(640, 480)).resize((8, 8), Image.Resampling.BILINEAR)
    assert furthest(decode_views(payload, [crop], 8)[0], expected) <= 1


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
def test_whole_is_the_box_of_the_identity(channels):
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, channels, 6, 6), dtype=np.uint8))
    assert torch.equal(crop_each(pixels, [lambda width, height: (0, 0, width, height)] * 2), pixels)
    assert to_image(pixels[0]).mode == {1: "L", 3: "RGB"}[channels]
