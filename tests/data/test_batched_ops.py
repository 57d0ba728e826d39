"""Operations of AutoAugment on a batch: torchvision's pixels to the bit."""

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.autoaugment import _apply_op

from data.autoaugment import magnitudes
from data.batched_ops import OPERATIONS
from tests.support.pixels import random_images, smooth_images

SIZES = [(32, 32), (17, 31), (6, 9), (1, 1), (2, 5), (3, 3)]
SIGNED = list(OPERATIONS)[:9]


def by_torchvision(image: torch.Tensor, name: str, magnitude: float) -> torch.Tensor:
    fill = [128.0] * len(image)
    return _apply_op(image.clone(), name, magnitude, interpolation=InterpolationMode.NEAREST, fill=fill)


@pytest.mark.parametrize("make", [random_images, smooth_images])
@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_torchvisions_to_the_bit_at_each_magnitude(name, size, channels, make):
    positive = magnitudes(name, *size)
    values = np.concatenate([positive, -positive]) if name in SIGNED else positive
    values = np.repeat(values, 3)  # each on three images, which lie apart
    images = make(len(values), channels, *size)
    values = values[np.random.default_rng(0).permutation(len(values))]
    result = OPERATIONS[name](images, values)
    assert (result.dtype, result.shape) == (torch.uint8, images.shape)
    expected = [by_torchvision(*pair) for pair in zip(images, [name] * len(values), values, strict=True)]
    assert torch.equal(result, torch.stack(expected))


@pytest.mark.parametrize("name", ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"])
@pytest.mark.parametrize("size", [(32, 32), (15, 22), (224, 224)], ids=str)
def test_moves_by_any_magnitude_pick_the_pixels_that_torchvision_picks(name, size):
    values = np.random.default_rng(1).uniform(-45, 45, 60) / (50 if name.startswith("Shear") else 1)
    image = (torch.arange(size[0] * size[1]) % 251).to(torch.uint8).view(1, *size)
    result = OPERATIONS[name](image.expand(60, -1, -1, -1), values)
    expected = [by_torchvision(image, name, float(value)) for value in values]
    assert torch.equal(result, torch.stack(expected))
