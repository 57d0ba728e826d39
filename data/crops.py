"""Which part of an image is seen: the centre for tests, a random part for training."""

import math
import random
from dataclasses import dataclass

from data.decode import Box, Crop

_AREA, _RATIO, _TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # torchvision's RandomResizedCrop defaults


@dataclass(frozen=True)
class CentreCrop:
    """The usual test view: short side to int(size * 256 / 224), then the centre square of `image_size`."""

    image_size: int

    def __call__(self, width: int, height: int) -> Box:
        side = min(width, height) * self.image_size / int(self.image_size * 256 / 224)
        left, upper = (width - side) / 2, (height - side) / 2
        return (left, upper, left + side, upper + side)


def quick_centre(image_size: int) -> Crop:
    """The test view cut out by whole pixels, which is much faster to resize: for training alone."""
    exact = CentreCrop(image_size)

    def crop(width: int, height: int) -> Box:
        left, upper, right, lower = (round(side) for side in exact(width, height))
        return (left, upper, right, lower)

    return crop


def random_crop(seed: int) -> Crop:
    """A part of random area, shape and place (Szegedy et al. 2015), a function of seed and image size."""

    def crop(width: int, height: int) -> Box:
        rng = random.Random(seed)  # made four times as fast as numpy's
        for _ in range(_TRIES):
            area = width * height * rng.uniform(*_AREA)
            ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, upper = rng.randint(0, width - w), rng.randint(0, height - h)
                return (left, upper, left + w, upper + h)
        return _widest(width, height)

    return crop


def _widest(width: int, height: int) -> Box:
    """The centre of an image that is too long or too high, at the nearest shape that is allowed."""
    w, h = width, height
    if width / height < _RATIO[0]:
        h = round(width / _RATIO[0])
    elif width / height > _RATIO[1]:
        w = round(height * _RATIO[1])
    left, upper = (width - w) // 2, (height - h) // 2
    return (left, upper, left + w, upper + h)
