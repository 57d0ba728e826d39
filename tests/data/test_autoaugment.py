"""The CIFAR-10 policy on a batch: torchvision's pixels, and choices as likely as the paper's."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torchvision.transforms import AutoAugment, AutoAugmentPolicy

from data.augment import Augmentation
from data.autoaugment import POLICY, Choices, apply_choices, autoaugment, choose, magnitudes
from data.batched_ops import OPERATIONS
from tests.support.pixels import random_images, smooth_images

SIGNED = list(OPERATIONS)[:9]
THEIRS = AutoAugment(AutoAugmentPolicy.CIFAR10)


def policy_by_torchvision(image: torch.Tensor, sub_policy: int, applied: list[bool], negative: list[bool]):
    """torchvision's own transform, with its draw replaced by these choices."""
    theirs = AutoAugment(AutoAugmentPolicy.CIFAR10, fill=[128] * len(image))
    probs = torch.tensor([-1.0 if apply else 2.0 for apply in applied])  # it applies where prob <= p
    theirs.get_params = lambda _: (sub_policy, probs, torch.tensor(negative).logical_not().long())
    return theirs(image)


def every_choice() -> Choices:
    """All 25 sub-policies with each operation applied or not, of either sign: 400."""
    flags = [False, True]
    cells = np.meshgrid(np.arange(25), flags, flags, flags, flags, indexing="ij")
    sub_policy, *rest = (cell.ravel() for cell in cells)
    return Choices(sub_policy, np.stack(rest[:2], axis=1), np.stack(rest[2:], axis=1))


def test_policy_is_torchvisions():
    expected = [
        tuple((name, prob, magnitude or 0) for name, prob, magnitude in steps) for steps in THEIRS.policies
    ]
    assert list(POLICY) == expected


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (6, 9), (224, 224), (33, 500)], ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_magnitudes_and_signs_are_torchvisions(name, size):
    expected, signed = THEIRS._augmentation_space(10, size)[name]
    assert magnitudes(name, *size).tolist() == (expected.tolist() if expected.ndim else [0.0] * 10)
    assert signed == (name in SIGNED)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
@pytest.mark.parametrize("make", [random_images, smooth_images])
def test_each_choice_makes_of_an_image_what_torchvisions_policy_makes(make, channels):
    choices = every_choice()
    images = make(400, channels, 32, 32)
    result = apply_choices(images, choices)
    for index, image in enumerate(images):
        sub_policy, applied, negative = (part[index].tolist() for part in choices)
        assert torch.equal(result[index], policy_by_torchvision(image, sub_policy, applied, negative))


def test_seeds_choose_what_is_applied():
    images, seeds = random_images(32, 3, 8, 8), torch.arange(32)
    result = autoaugment(images, seeds)
    assert torch.equal(result, apply_choices(images, choose(seeds.numpy())))
    assert sum(not torch.equal(*pair) for pair in zip(images, result, strict=True)) > 16


@pytest.mark.parametrize("kind", ["drawn", "successive"])
def test_choices_are_as_likely_as_the_policy_says(kind):
    """All 400 combinations at once: sub-policies, probabilities, signs, and that they are independent."""
    num = 1 << 18
    drawn = Augmentation.parse("autoaugment").draw(num, seed=0, step=0)[:, 5].numpy()
    sub_policy, applied, negative = choose(drawn if kind == "drawn" else np.arange(num))
    cells = sub_policy * 16 + np.concatenate([applied, negative], axis=1) @ [8, 4, 2, 1]
    counts = np.bincount(cells, minlength=400).reshape(25, 2, 2, 4)
    first, second = np.array([[prob for _, prob, _ in steps] for steps in POLICY]).T
    first, second = np.stack([1 - first, first], axis=1), np.stack([1 - second, second], axis=1)
    likely = np.repeat((first[:, :, None] * second[:, None, :])[..., None] / 100, 4, axis=3)
    assert (counts[likely == 0] == 0).all()
    assert chisquare(counts[likely > 0], likely[likely > 0] * num).pvalue > 0.01
    assert chisquare(counts.sum(axis=(1, 2, 3))).pvalue > 0.01  # of the sub-policies alone


def test_choices_are_a_function_of_each_seed_alone():
    seeds = np.random.default_rng(0).integers(0, 1 << 62, 64)
    together = choose(seeds)
    alone = [choose(seeds[[index]]) for index in range(64)]
    for part, parts in zip(together, zip(*alone, strict=True), strict=True):
        assert np.array_equal(part, np.concatenate(parts))
    assert len({(*row,) for row in np.column_stack([part.reshape(64, -1) for part in together])}) > 40


def test_known_seeds_choose_the_same_for_ever():
    """SplitMix64 from 0 begins with 0xe220a8397b1dcdaf, so its first sub-policy is 25 * 0xe220.../2**64."""
    assert choose(np.array([0])).sub_policy.tolist() == [25 * 0xE220A8397B1DCDAF >> 64]
    assert choose(np.array([1])).sub_policy.tolist() == [25 * 0x910A2DEC89025CC1 >> 64]
