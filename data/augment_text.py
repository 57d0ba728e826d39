"""How an augmentation is written, apart from torch, so that settings are checked quickly.

As in the paper's tables, words joined by '+', in any order: 'crop4' is a random crop after padding by 4
pixels, 'rrc' a random resized crop, 'flip' a horizontal flip with probability one half, 'autoaugment' the
CIFAR-10 policy, 'cutout16' a grey square of 16 pixels; 'none' changes nothing.
"""

import re
from dataclasses import dataclass

HELP = "'none', or words joined by '+': crop<pixels> or rrc, flip, autoaugment, cutout<pixels> ('crop4+flip')"
_WORD = re.compile(r"(?P<sized>crop|cutout)(?P<pixels>[1-9]\d*)|(?P<plain>rrc|flip|autoaugment)")


@dataclass(frozen=True)
class AugmentSpec:
    crop: int = 0  # pixels of padding
    rrc: bool = False
    flip: bool = False
    autoaugment: bool = False
    cutout: int = 0  # pixels a side


def parse_augment(text: str) -> AugmentSpec | None:
    """What the words say, or None when they are not understood, repeated, or hold two kinds of crop."""
    found: dict[str, int | bool] = {}
    for word in [] if text == "none" else text.split("+"):
        match = _WORD.fullmatch(word)
        if match is None:
            return None
        name, value = (match["sized"], int(match["pixels"])) if match["sized"] else (match["plain"], True)
        if name in found:
            return None
        found[name] = value
    return None if {"crop", "rrc"} <= found.keys() else AugmentSpec(**found)  # type: ignore[arg-type]
