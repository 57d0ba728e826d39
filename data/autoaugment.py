"""AutoAugment's CIFAR-10 policy (Cubuk et al. 2019, arXiv:1805.09501, appendix) on a batch of images.

Each image takes one of 25 sub-policies: two operations, each with a probability and a magnitude in tenths
of its range. Numbers come from each image's own seed; the pixels are torchvision's AutoAugment's.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.batched_ops import OPERATIONS, Floats
from data.devices import to_device

Integers = np.ndarray[tuple[Any, ...], np.dtype[np.int64]]
Flags = np.ndarray[tuple[Any, ...], np.dtype[np.bool_]]

# Operation, probability, magnitude from 0 to 9 (0 also where there is none); twice.
POLICY = (
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
)
_NAMES = tuple(OPERATIONS)
_NONE = len(_NAMES)  # the number of no operation, after those of all
_NUMBERS = np.array([[_NAMES.index(name) for name, _, _ in steps] for steps in POLICY])
_PROBABILITIES = np.array([[probability for _, probability, _ in steps] for steps in POLICY])
_LAST = {  # magnitude 9 of those that begin with 0 and take a sign; translations are parts of the side
    "ShearX": 0.3,
    "ShearY": 0.3,
    "TranslateX": 150 / 331,
    "TranslateY": 150 / 331,
    "Rotate": 30.0,
    "Brightness": 0.9,
    "Color": 0.9,
    "Contrast": 0.9,
    "Sharpness": 0.9,
}
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Choices(NamedTuple):
    """What each of B images takes."""

    sub_policy: Integers  # (B,) 0 to 24
    applied: Flags  # (B, 2) whether each of its operations is
    negative: Flags  # (B, 2) whether its magnitude is, where it may be


def choose(seeds: Integers) -> Choices:
    """Choices for each seed by itself. seeds: (B,) of at least 0."""
    numbers = _splitmix(seeds, 4)
    uniform = (numbers >> np.uint64(11)) * 2.0**-53
    sub_policy = (uniform[:, 0] * len(POLICY)).astype(np.int64)
    negative = (numbers[:, 3, None] >> np.array([62, 63], dtype=np.uint64)) & np.uint64(1) == 1
    return Choices(sub_policy, uniform[:, 1:3] < _PROBABILITIES[sub_policy], negative)


def _splitmix(seeds: Integers, num: int) -> np.ndarray[tuple[Any, ...], np.dtype[np.uint64]]:
    """(B, num) random words: the first of SplitMix64 (Steele et al. 2014) started at each seed."""
    z = seeds.astype(np.uint64)[:, None] + _GOLDEN * np.arange(1, num + 1, dtype=np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def magnitudes(name: str, height: int, width: int) -> Floats:
    """(10,) what magnitudes 0 to 9 of an operation are, as torchvision rounds them."""
    if name in _LAST:
        side = {"TranslateX": width, "TranslateY": height}.get(name, 1)
        return torch.linspace(0.0, _LAST[name] * side, 10, dtype=torch.float32).double().numpy()
    if name == "Solarize":
        return torch.linspace(255.0, 0.0, 10, dtype=torch.float32).double().numpy()
    return 8 - np.round(np.arange(10) / (9 / 4)) if name == "Posterize" else np.zeros(10)


@lru_cache(maxsize=32)
def _policy_magnitudes(height: int, width: int) -> Floats:
    """(2, 25, 2): those of each sub-policy's operations, positive and then negative where they may be."""
    positive = np.array([[magnitudes(name, height, width)[m] for name, _, m in steps] for steps in POLICY])
    signs = np.array([[-1.0 if name in _LAST else 1.0 for name, _, _ in steps] for steps in POLICY])
    return np.stack([positive, positive * signs])


def apply_choices(images: Tensor, choices: Choices) -> Tensor:
    """Both operations of each image's sub-policy. images: (B, C, H, W) uint8, C = 1 or 3; same shape back."""
    sub_policy, applied, negative = choices
    table = _policy_magnitudes(images.shape[2], images.shape[3])
    for step in range(2):
        numbers = np.where(applied[:, step], _NUMBERS[sub_policy, step], _NONE)
        images = _apply_each(images, numbers, table[negative[:, step].astype(int), sub_policy, step])
    return images


def _apply_each(images: Tensor, numbers: Integers, magnitudes: Floats) -> Tensor:
    """Each image's own operation: images sorted by operation, and each run of one taken at once."""
    order = np.argsort(numbers, kind="stable")
    orders = to_device(torch.from_numpy(np.stack([order, np.argsort(order)])), images.device)
    images, magnitudes = images.index_select(0, orders[0]), magnitudes[order]
    ends = np.cumsum(np.bincount(numbers, minlength=_NONE)[:_NONE]).tolist()
    for name, start, end in zip(_NAMES, [0, *ends], ends, strict=False):
        if start < end:
            images[start:end] = OPERATIONS[name](images[start:end], magnitudes[start:end])
    return images.index_select(0, orders[1])


def autoaugment(images: Tensor, seeds: Tensor) -> Tensor:
    """The policy with each image's own seed. images: (B, C, S, S) uint8, C = 1 or 3; seeds: (B,) int64."""
    return apply_choices(images, choose(seeds.cpu().numpy()))
