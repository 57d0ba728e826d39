"""Augmentation: what is drawn for each image, and what it does to the pixels."""

import numpy as np
import pytest
import torch

from data.augment import Augmentation


def batch(num: int = 8, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(1, 256, (num, 3, 6, 9), dtype=np.uint8)
    images = torch.from_numpy(pixels)
    return images.float() / 255 if dtype == torch.float32 else images


def by_hand(image: torch.Tensor, pad: int, row: int, column: int, flip: int) -> np.ndarray:
    """Flip, then pad with zeros, then cut out the window: one image at a time."""
    pixels = image.numpy()
    _, height, width = pixels.shape
    if flip:
        pixels = pixels[:, :, ::-1]
    padded = np.zeros((len(pixels), height + 2 * pad, width + 2 * pad), dtype=pixels.dtype)
    padded[:, pad : pad + height, pad : pad + width] = pixels
    return padded[:, row : row + height, column : column + width]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", Augmentation(0, False)),
        ("flip", Augmentation(0, True)),
        ("crop4", Augmentation(4, False)),
        ("crop4+flip", Augmentation(4, True)),
        ("flip+crop12", Augmentation(12, True)),
    ],
)
def test_parse(text, expected):
    assert Augmentation.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "crop",
        "crop0",
        "crop-4",
        "crop4.5",
        "Crop4",
        "crop4 + flip",
        "flip+",
        "+",
        "none+flip",
        "rotate",
        "4",
    ],
)
def test_what_is_not_understood_is_an_error(text):
    with pytest.raises(ValueError, match="is not understood; use 'none', or crop<pixels>") as caught:
        Augmentation.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_none_is_the_identity(dtype):
    augmentation, images = Augmentation.parse("none"), batch(dtype=dtype)
    drawn = augmentation.draw(8, seed=1, step=2)
    assert (drawn == 0).all()
    assert torch.equal(augmentation.apply(images, drawn), images)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
@pytest.mark.parametrize("text", ["crop1", "crop4", "crop7", "flip", "crop4+flip"])
def test_each_image_is_cropped_and_flipped_as_by_hand(text, dtype):
    augmentation, images = Augmentation.parse(text), batch(32, dtype)
    drawn = augmentation.draw(32, seed=1, step=2)
    result = augmentation.apply(images, drawn)
    assert (result.dtype, result.shape) == (images.dtype, images.shape)
    for image, numbers, got in zip(images, drawn.tolist(), result, strict=True):
        assert np.array_equal(got.numpy(), by_hand(image, augmentation.pad, *numbers))


def test_middle_crop_without_flip_is_the_identity():
    augmentation, images = Augmentation.parse("crop3+flip"), batch()
    assert torch.equal(augmentation.apply(images, torch.tensor([[3, 3, 0]] * 8)), images)


def test_flip_mirrors_left_and_right_of_the_drawn_images_only():
    augmentation, images = Augmentation.parse("flip"), batch(3)
    result = augmentation.apply(images, torch.tensor([[0, 0, 0], [0, 0, 1], [0, 0, 0]]))
    assert torch.equal(result[[0, 2]], images[[0, 2]])
    assert torch.equal(result[1], images[1].flip(2))


def test_input_is_left_as_it_was():
    augmentation, images = Augmentation.parse("crop4+flip"), batch()
    before = images.clone()
    augmentation.apply(images, augmentation.draw(8, seed=0, step=0))
    assert torch.equal(images, before)


def test_draws_have_the_right_shape_and_range():
    drawn = Augmentation.parse("crop4+flip").draw(4096, seed=0, step=0)
    assert (drawn.shape, drawn.dtype) == ((4096, 3), torch.int64)
    assert sorted(set(drawn[:, 0].tolist())) == sorted(set(drawn[:, 1].tolist())) == list(range(9))
    assert sorted(set(drawn[:, 2].tolist())) == [0, 1]


def test_about_half_are_flipped_and_crops_are_even():
    drawn = Augmentation.parse("crop4+flip").draw(9000, seed=0, step=0)
    assert abs(drawn[:, 2].float().mean() - 0.5) < 0.03
    for column in (0, 1):
        counts = torch.bincount(drawn[:, column], minlength=9)
        assert (counts - 1000).abs().max() < 150
    assert abs(torch.corrcoef(drawn.T.float())[0, 1]) < 0.05


def test_draws_differ_from_image_to_image():
    drawn = Augmentation.parse("crop4+flip").draw(162, seed=0, step=0)
    assert len({tuple(row) for row in drawn.tolist()}) > 80


def test_draws_are_a_function_of_seed_and_step():
    augmentation = Augmentation.parse("crop4+flip")
    keys = [(seed, step) for seed in (0, 1, 2**63 - 1) for step in (0, 1, 10**6)]
    first = [augmentation.draw(64, seed, step) for seed, step in keys]
    again = [augmentation.draw(64, seed, step) for seed, step in reversed(keys)][::-1]
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert len({tuple(drawn.flatten().tolist()) for drawn in first}) == len(keys)


@pytest.mark.parametrize("world_size", [2, 4])
def test_each_worker_does_its_part_of_the_global_batch(world_size):
    augmentation, images = Augmentation.parse("crop4+flip"), batch(16)
    drawn = augmentation.draw(16, seed=5, step=7)
    share = 16 // world_size
    parts = [
        augmentation.apply(images[start : start + share], drawn[start : start + share])
        for start in range(0, 16, share)
    ]
    assert torch.equal(torch.cat(parts), augmentation.apply(images, drawn))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_number_of_channels_is_cropped_alike(channels):
    augmentation = Augmentation.parse("crop2+flip")
    images = batch()[:, :1].repeat(1, channels, 1, 1)
    result = augmentation.apply(images, augmentation.draw(8, seed=0, step=0))
    assert torch.equal(result, result[:, :1].expand(-1, channels, -1, -1))
