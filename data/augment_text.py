"""How an augmentation is written, apart from torch, so that settings are checked quickly.

As in the paper's tables: 'crop4+flip' is a random crop after padding by 4 pixels and a horizontal flip
with probability one half; 'none' changes nothing.
"""

import re

HELP = "'none', or crop<pixels> and flip joined by '+', such as 'crop4+flip'"
_CROP = re.compile(r"crop([1-9]\d*)")


def parse_augment(text: str) -> tuple[int, bool] | None:
    """(pixels of padding, whether to flip), or None when the text is not understood."""
    pad, flip = 0, False
    words = [] if text == "none" else text.split("+")
    if len({word.rstrip("0123456789") for word in words}) < len(words):
        return None
    for word in words:
        if match := _CROP.fullmatch(word):
            pad = int(match[1])
        elif word == "flip":
            flip = True
        else:
            return None
    return pad, flip
