"""Noise images: a function of seed and index alone."""

import numpy as np
import pytest
import torch

from data.crops import random_crop
from data.images import crop_each
from data.sources.noise import NoiseImages
from data.sources.noise_names import KINDS

pytestmark = pytest.mark.parametrize("kind", KINDS)


def noise(kind: str, seed: int = 0, channels: int = 3, image_size: int = 16) -> NoiseImages:
    return NoiseImages(kind, seed, channels, image_size)


def roughness(images: torch.Tensor) -> float:
    """Mean absolute difference of horizontal neighbours."""
    return images.float().diff(dim=3).abs().mean().item()


@pytest.mark.parametrize(("channels", "image_size"), [(1, 8), (3, 32), (3, 1), (3, 2)])
def test_shape_and_type(kind, channels, image_size):
    images = noise(kind, channels=channels, image_size=image_size).get([0, 5])
    assert (images.shape, images.dtype) == ((2, channels, image_size, image_size), torch.uint8)


def test_image_is_a_function_of_seed_and_index(kind):
    """Whatever its batch, the kind of index, and what was drawn before."""
    images, indices = noise(kind, seed=2**63 - 1), [7, 0, 7, 1000, 3, len(noise(kind)) - 1]
    together = images.get(indices)
    torch.manual_seed(5)
    noise(kind, seed=2).get(range(50))
    again = noise(kind, seed=2**63 - 1)
    assert torch.equal(torch.cat([again.get([index]) for index in indices]), together)
    assert torch.equal(together[0], together[2])
    assert torch.equal(images.get(range(2, 5)), images.get(np.array([2, 3, 4], dtype=np.int64)))
    assert len(images) >= 10**6


def test_seeds_indices_and_channels_give_different_images(kind):
    images = torch.cat([noise(kind, seed).get(range(10)) for seed in (0, 1, 2**63 - 1)])
    assert len({channel.numpy().tobytes() for channel in images.flatten(0, 1)}) == 90
    assert all(image.float().std() > 1 for image in images)


def test_values_are_spread_over_the_range(kind):
    pixels = noise(kind).get(range(300)).float()
    assert abs(pixels.mean() - 127.5) < 4
    assert pixels.min() < 5
    assert pixels.max() > 250


def test_unknown_kind_is_an_error(kind):
    with pytest.raises(ValueError, match=f"'noise-gauss' is unknown; use .*'{kind}'"):
        noise("noise-gauss")


def test_smooth_noise_has_lower_frequencies_than_uniform(kind):
    limit = {"noise-smooth": (0, 10), "noise-uniform": (75, 95)}[kind]
    assert limit[0] < roughness(noise(kind).get(range(50))) < limit[1]


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
def test_crops_are_of_the_image_of_that_index(kind, channels):
    images, indices = noise(kind, channels=channels), [3, 0, 3]
    crops = [random_crop(seed) for seed in range(3)]
    got = images.get(indices, crops)
    assert torch.equal(got, crop_each(images.get(indices), crops))
    assert (got.dtype, got.shape) == (torch.uint8, (3, channels, 16, 16))
    assert not torch.equal(got[0], got[2])
    assert torch.equal(images.get([0], crops[1:2])[0], got[1])
