"""Which words name an augmentation, and which are refused."""

import pytest

from data.augment import Augmentation
from data.augment_text import AugmentSpec, parse_augment


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", AugmentSpec()),
        ("flip", AugmentSpec(flip=True)),
        ("flip+crop12", AugmentSpec(crop=12, flip=True)),
        ("rrc+cutout1", AugmentSpec(rrc=True, cutout=1)),
        ("cutout16+autoaugment+flip+crop4", AugmentSpec(crop=4, flip=True, autoaugment=True, cutout=16)),
    ],
)
def test_words_in_any_order(text, expected):
    assert parse_augment(text) == expected
    assert Augmentation.parse(text) == Augmentation(expected)


@pytest.mark.parametrize(
    "text", ["", "4", "+", "rotate", "Crop4", "crop4\n", "crop4 + flip", "flip+", "rrc4"]
)
def test_unknown_words_are_refused(text):
    with pytest.raises(ValueError, match="is not understood; use 'none', or words joined by") as caught:
        Augmentation.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["crop", "crop0", "crop-4", "crop4.5", "cutout", "cutout08", "flip2"])
def test_sizes_are_positive_integers(text):
    assert parse_augment(text) is None


@pytest.mark.parametrize("text", ["none+flip", "flip+none", "flip+flip", "crop4+crop8", "rrc+flip+crop4"])
def test_words_that_exclude_each_other_are_refused(text):
    assert parse_augment(text) is None
