"""Augmentation: what is drawn for each image, and what it does to the pixels."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torchvision.transforms import functional

from data.augment import Augmentation
from data.autoaugment import autoaugment
from data.crops import quick_centre, random_crop
from data.images import MemoryImages, ShardImages
from data.sources.noise import NoiseImages
from tests.support.pixels import random_images

ALL = ["none", "crop4", "rrc", "flip", "autoaugment", "cutout3", "crop4+flip+autoaugment+cutout3", "rrc+flip"]
ROW, COLUMN, FLIP, CUT_ROW, CUT_COLUMN, SEED = range(6)


def batch(num: int = 8, channels: int = 3) -> torch.Tensor:
    return random_images(num, channels, 6, 9)


def squares(channels: int = 3) -> NoiseImages:
    return NoiseImages("noise-uniform", 0, channels, 12)


def numbers(**columns: int) -> torch.Tensor:
    """What is drawn for one image: zeros but for the named columns."""
    drawn = torch.zeros(1, 6, dtype=torch.int64)
    for name, value in columns.items():
        drawn[0, globals()[name.upper()]] = value
    return drawn


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
def test_none_is_the_identity(channels):
    augmentation, images = Augmentation.parse("none"), squares(channels)
    drawn = augmentation.draw(8, seed=1, step=2)
    assert (drawn[:, [ROW, COLUMN, FLIP]] == 0).all()
    assert torch.equal(augmentation.view(images, range(8), drawn), images.get(range(8)))
    assert torch.equal(augmentation.apply(batch(), drawn), batch())


def test_a_crop_computed_by_hand():
    image = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)
    result = Augmentation.parse("crop1+flip").apply(image, numbers(row=2, column=1, flip=1))
    assert result.tolist() == [[[[4, 3], [0, 0]]]]


def test_cutout_covers_what_the_other_steps_made():
    augmentation = Augmentation.parse("crop4+flip+autoaugment+cutout2")
    drawn = numbers(row=8, column=8, flip=1, cut_row=32768, cut_column=32768, seed=5)
    result = augmentation.apply(batch(1), drawn)
    assert (result[0, :, 2:4, 3:5] == 128).all()


def test_autoaugment_takes_flipped_and_cropped_pixels_and_each_images_own_seed():
    augmentation, images = Augmentation.parse("crop4+flip+autoaugment"), batch(64)
    drawn = augmentation.draw(64, seed=1, step=2)
    result = augmentation.apply(images, drawn)
    cropped = Augmentation.parse("crop4+flip").apply(images, drawn)
    assert torch.equal(result, autoaugment(cropped, drawn[:, SEED]))
    assert sum(not torch.equal(*pair) for pair in zip(cropped, result, strict=True)) > 32


def test_crops_and_flips_are_torchvisions_and_equally_likely():
    augmentation, images = Augmentation.parse("crop4+flip"), batch(1).expand(16200, -1, -1, -1)
    drawn = augmentation.draw(16200, seed=3, step=4)
    cells = drawn[:, ROW] * 18 + drawn[:, COLUMN] * 2 + drawn[:, FLIP]
    assert chisquare(torch.bincount(cells, minlength=162).numpy()).pvalue > 0.01
    result = augmentation.apply(images, drawn)
    for row, column, flip in torch.cartesian_prod(torch.arange(9), torch.arange(9), torch.arange(2)).tolist():
        image = functional.hflip(images[0]) if flip else images[0]
        expected = functional.crop(functional.pad(image, 4), row, column, 6, 9)
        assert (result[cells == row * 18 + column * 2 + flip] == expected).all()


@pytest.mark.parametrize("size", [1, 3, 4, 40])
def test_cutout_is_a_grey_square_around_equally_likely_centres(size):
    """Parts of it may lie beyond the border."""
    images = batch(1).expand(8000, -1, -1, -1)
    augmentation = Augmentation.parse(f"cutout{size}")
    drawn = augmentation.draw(8000, seed=5, step=6)
    rows, columns = drawn[:, CUT_ROW] * 6 // 65536, drawn[:, CUT_COLUMN] * 9 // 65536
    assert chisquare(torch.bincount(rows * 9 + columns, minlength=54).numpy()).pvalue > 0.01
    expected = images.clone()
    for image, row, column in zip(expected, rows.tolist(), columns.tolist(), strict=True):
        top, left = row - size // 2, column - size // 2
        image[:, max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = 128
    assert torch.equal(augmentation.apply(images, drawn), expected)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
@pytest.mark.parametrize("text", ALL)
def test_view_of_an_image_depends_on_its_own_numbers_alone(text, channels):
    augmentation, images = Augmentation.parse(text), squares(channels)
    drawn = augmentation.draw(16, seed=5, step=7)
    together = augmentation.view(images, range(16), drawn)
    assert (together.dtype, together.shape) == (torch.uint8, (16, channels, 12, 12))
    order = np.random.default_rng(0).permutation(16)
    assert torch.equal(augmentation.view(images, order, drawn[order]), together[order])
    alone = [augmentation.view(images, [index], drawn[[index]]) for index in range(16)]
    assert torch.equal(torch.cat(alone), together)


@pytest.mark.parametrize("text", ALL)
def test_views_leave_their_input_and_torchs_random_numbers_alone(text):
    augmentation, images = Augmentation.parse(text), batch()
    drawn = augmentation.draw(8, seed=5, step=7)
    before = images.clone(), drawn.clone()
    views = []
    with torch.random.fork_rng(devices=[]):
        for seed in (0, 1):
            torch.manual_seed(seed)
            state = torch.get_rng_state()
            augmentation.apply(images, drawn)
            views.append(augmentation.view(squares(), range(8), drawn))
            assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(*views)
    assert all(torch.equal(*pair) for pair in zip((images, drawn), before, strict=True))


def test_numbers_for_another_number_of_images_are_an_error():
    augmentation = Augmentation.parse("flip")
    with pytest.raises(ValueError, match="2 rows of numbers for 3 images"):
        augmentation.apply(batch(3), augmentation.draw(2, seed=0, step=0))


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
@pytest.mark.parametrize("text", ALL)
def test_no_step_looks_at_the_pixels_to_know_what_to_do(text, channels):
    """On the meta device there are no values, so what would wait for a GPU's is an error."""
    augmentation, images = Augmentation.parse(text), batch(256, channels).to("meta")
    result = augmentation.apply(images, augmentation.draw(256, seed=0, step=0))
    assert (result.device.type, result.dtype, result.shape) == ("meta", torch.uint8, images.shape)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("text", ALL)
def test_pixels_on_a_gpu_come_out_the_same_there(text):
    augmentation, images = Augmentation.parse(text), batch(256)
    drawn = augmentation.draw(256, seed=0, step=0)
    result = augmentation.apply(images.cuda(), drawn)
    assert result.is_cuda
    assert torch.equal(result.cpu(), augmentation.apply(images, drawn))


def test_rrc_is_the_random_crop_of_each_images_own_seed():
    augmentation, images = Augmentation.parse("rrc"), squares()
    drawn = augmentation.draw(8, seed=1, step=2)
    crops = [random_crop(seed) for seed in drawn[:, SEED].tolist()]
    result = augmentation.view(images, range(8), drawn)
    assert torch.equal(result, images.get(range(8), crops))
    assert sum(not torch.equal(*pair) for pair in zip(result, images.get(range(8)), strict=True)) > 4


def test_whole_frames_are_seen_at_their_quick_centre(known_frames):
    images = ShardImages(known_frames.folder, "train")
    augmentation = Augmentation.parse("none")
    drawn = augmentation.draw(3, seed=0, step=0)
    expected = images.get([2, 0, 1], [quick_centre(images.image_size)] * 3)
    assert torch.equal(augmentation.view(images, [2, 0, 1], drawn), expected)


def test_only_the_asked_images_are_read(known_shards):
    class Watched(MemoryImages):
        def get(self, indices, crops=None):
            asked.append((list(indices), crops is None))
            return super().get(indices, crops)

    asked: list[tuple[list[int], bool]] = []
    images = Watched(known_shards.folder, "train")
    for text in ("flip", "rrc"):
        augmentation = Augmentation.parse(text)
        augmentation.view(images, [7, 2], augmentation.draw(2, seed=0, step=0))
    assert asked == [([7, 2], True), ([7, 2], False)]


def test_draws_have_the_right_shape_and_range_and_are_independent():
    drawn = Augmentation.parse("crop4+flip").draw(4096, seed=0, step=0)
    assert (drawn.shape, drawn.dtype) == ((4096, 6), torch.int64)
    assert sorted(set(drawn[:, ROW].tolist())) == sorted(set(drawn[:, COLUMN].tolist())) == list(range(9))
    assert sorted(set(drawn[:, FLIP].tolist())) == [0, 1]
    centres = drawn[:, [CUT_ROW, CUT_COLUMN]]
    assert 0 <= centres.min() < 100 < 65436 < centres.max() < 65536
    assert 0 <= drawn[:, SEED].min() < 2**52 < 2**61 < drawn[:, SEED].max() < 2**62
    assert len(set(drawn[:, SEED].tolist())) == 4096
    correlations = torch.corrcoef(drawn.T.double()) - torch.eye(6)
    assert correlations.abs().max() < 0.06


def test_draws_are_a_function_of_seed_and_step():
    augmentation = Augmentation.parse("crop4+flip")
    keys = [(seed, step) for seed in (0, 1, 2**63 - 1) for step in (0, 1, 10**6)]
    first = [augmentation.draw(64, seed, step) for seed, step in keys]
    again = [augmentation.draw(64, seed, step) for seed, step in reversed(keys)][::-1]
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert len({tuple(drawn[:, :3].flatten().tolist()) for drawn in first}) == len(keys)
    assert len({seed for drawn in first for seed in drawn[:, SEED].tolist()}) == 64 * len(keys)


@pytest.mark.slow
def test_views_are_the_same_in_every_process(run_python):
    code = (
        "import hashlib, torch; from data.augment import Augmentation;"
        "from data.sources.noise import NoiseImages;"
        "augmentation = Augmentation.parse('rrc+flip+autoaugment+cutout3'); torch.manual_seed(9);"
        "images = NoiseImages('noise-smooth', 0, 3, 16); drawn = augmentation.draw(8, 1, 2);"
        "view = augmentation.view(images, range(8), drawn).numpy().tobytes();"
        "digest = hashlib.sha256(view).hexdigest(); print(digest)"
    )
    done = run_python("-c", code, OMP_NUM_THREADS="1")
    here: dict[str, object] = {}
    exec(code, here)
    assert done.stdout.strip() == here["digest"], done.stderr
