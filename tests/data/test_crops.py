"""Where crops lie: the centre as torchvision cuts it, random parts by their distribution."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2.functional import center_crop, resize

from data.crops import CentreCrop, random_crop
from data.decode import crop_pixels
from tests.support.pixels import smooth_image

SIZES = [(500, 375), (375, 500), (64, 64), (1000, 333), (31, 47)]


def boxes(num: int, width: int, height: int) -> np.ndarray:
    return np.array([random_crop(seed)(width, height) for seed in range(num)])


@pytest.mark.parametrize(
    ("image_size", "width", "height", "expected"),
    [
        (224, 256, 256, (16, 16, 240, 240)),
        (224, 512, 256, (144, 16, 368, 240)),
        (224, 512, 1024, (32, 288, 480, 736)),
        (32, 36, 72, (2, 20, 34, 52)),  # int(32 * 256 / 224) is 36
        (32, 9, 9, (0.5, 0.5, 8.5, 8.5)),
        (1, 5, 7, (0, 1, 5, 6)),
    ],
)
def test_centre_crop_by_hand(image_size, width, height, expected):
    assert CentreCrop(image_size)(width, height) == pytest.approx(expected)


@pytest.mark.parametrize("image_size", [224, 112, 32])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_centre_crop_is_torchvisions_test_view(size, image_size):
    image = smooth_image(*size)
    ours = crop_pixels(image, CentreCrop(image_size), image_size)
    resized = resize(image, int(image_size * 256 / 224), interpolation=3)
    theirs = np.asarray(center_crop(resized, image_size)).transpose(2, 0, 1)
    error = np.abs(ours.astype(int) - theirs)
    shift = np.abs(np.diff(theirs.astype(int), axis=2)).mean()  # what a whole pixel aside would cost
    assert ours.shape == theirs.shape == (3, image_size, image_size)
    assert error.mean() < 0.5 + 0.5 * shift  # torchvision rounds its crop to whole pixels
    if image_size >= 112:
        assert error.mean() < 1.5


def test_centre_crop_is_torchvisions_to_the_last_bits_where_no_rounding_is():
    image = smooth_image(512, 256)
    ours = crop_pixels(image, CentreCrop(224), 224)
    theirs = np.asarray(center_crop(resize(image, 256, interpolation=3), 224)).transpose(2, 0, 1)
    assert np.array_equal(ours, theirs)
    small = crop_pixels(image, CentreCrop(112), 112)
    theirs = np.asarray(center_crop(resize(image, 128, interpolation=3), 112)).transpose(2, 0, 1)
    assert np.abs(small.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("size", [*SIZES, (1, 1), (2, 3), (1, 400), (400, 1)], ids=str)
def test_crops_lie_inside_the_image(size):
    width, height = size
    drawn = np.concatenate([boxes(300, *size), [CentreCrop(s)(*size) for s in range(1, 300)]])
    left, upper, right, lower = drawn.T
    assert left.min() >= 0
    assert upper.min() >= 0
    assert right.max() <= width
    assert lower.max() <= height
    assert (right - left).min() > 0
    assert (lower - upper).min() > 0
    for box in drawn[::40]:
        assert crop_pixels(smooth_image(*size), lambda w, h, box=box: tuple(box), 4).shape == (3, 4, 4)


@pytest.mark.parametrize(("width", "height"), [(500, 375), (300, 300), (411, 120), (1000, 100), (100, 700)])
def test_crops_are_distributed_as_torchvisions(width, height):
    ours = boxes(3000, width, height)
    image = torch.empty(1, height, width)
    torch.manual_seed(0)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(3000)]
    )  # upper, left, height, width
    ours[:, 2:] -= ours[:, :2]  # left, upper, width, height
    for own, other in zip(ours.T, theirs[:, [1, 0, 3, 2]].T, strict=True):
        assert ks_2samp(own, other).pvalue > 1e-3


def test_random_crop_is_a_function_of_seed_and_size_alone():
    sizes = [(40, 30), (30, 40), (41, 30)]
    first = {(seed, size): random_crop(seed)(*size) for seed in range(20) for size in sizes}
    crops = [random_crop(seed) for seed in range(20)]
    assert {(seed, size): crops[seed](*size) for seed, size in reversed(first)} == first
    assert len({random_crop(seed)(400, 300) for seed in (0, 1, 2**61, 2**62 - 1)}) == 4
