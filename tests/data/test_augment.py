"""Augmentation: what is drawn for each image, and what it does to the pixels."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torchvision.transforms import functional

from data.augment import Augmentation
from data.augment_text import AugmentSpec
from data.autoaugment import autoaugment
from data.crops import quick_centre, random_crop
from data.images import MemoryImages, ShardImages, crop_each

ALL = ["none", "crop4", "rrc", "flip", "autoaugment", "cutout3", "crop4+flip+autoaugment+cutout3", "rrc+flip"]
ROW, COLUMN, FLIP, CUT_ROW, CUT_COLUMN, SEED = range(6)


class Squares:
    """Images held as one tensor, under the interface of `data.images.Images`."""

    def __init__(self, pixels: torch.Tensor) -> None:
        self.pixels = pixels

    centre = None

    def __len__(self) -> int:
        return len(self.pixels)

    def get(self, indices, crops=None) -> torch.Tensor:
        squares = self.pixels[torch.as_tensor(np.asarray(indices, dtype=np.int64))]
        return squares if crops is None else crop_each(squares, crops)


def batch(num: int = 8, channels: int = 3) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(1, 256, (num, channels, 6, 9), dtype=np.uint8)
    return torch.from_numpy(pixels)


def squares(num: int = 8, channels: int = 3, side: int = 12) -> Squares:
    pixels = np.random.default_rng(0).integers(1, 256, (num, channels, side, side), dtype=np.uint8)
    return Squares(torch.from_numpy(pixels))


def numbers(**columns: int) -> torch.Tensor:
    """What is drawn for one image: zeros but for the named columns."""
    drawn = torch.zeros(1, 6, dtype=torch.int64)
    for name, value in columns.items():
        drawn[0, globals()[name.upper()]] = value
    return drawn


def by_hand(image: torch.Tensor, pad: int, row: int, column: int, flip: int) -> np.ndarray:
    """Flip, then pad with zeros, then cut out the window: one image at a time."""
    pixels = image.numpy()
    _, height, width = pixels.shape
    if flip:
        pixels = pixels[:, :, ::-1]
    padded = np.zeros((len(pixels), height + 2 * pad, width + 2 * pad), dtype=pixels.dtype)
    padded[:, pad : pad + height, pad : pad + width] = pixels
    return padded[:, row : row + height, column : column + width]


def p_value(counts: torch.Tensor) -> float:
    """Of the chi-square test that all cells are equally likely."""
    return float(chisquare(counts.numpy().ravel()).pvalue)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", AugmentSpec()),
        ("flip", AugmentSpec(flip=True)),
        ("crop4", AugmentSpec(crop=4)),
        ("crop4+flip", AugmentSpec(crop=4, flip=True)),
        ("flip+crop12", AugmentSpec(crop=12, flip=True)),
        ("rrc", AugmentSpec(rrc=True)),
        ("rrc+flip", AugmentSpec(rrc=True, flip=True)),
        ("autoaugment", AugmentSpec(autoaugment=True)),
        ("cutout16", AugmentSpec(cutout=16)),
        (
            "cutout16+autoaugment+flip+crop4",
            AugmentSpec(crop=4, flip=True, autoaugment=True, cutout=16),
        ),
        ("rrc+cutout1", AugmentSpec(rrc=True, cutout=1)),
    ],
)
def test_parse(text, expected):
    assert Augmentation.parse(text) == Augmentation(expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "crop",
        "crop0",
        "crop-4",
        "crop4.5",
        "crop4\n",
        "Crop4",
        "crop4 + flip",
        "flip+",
        "+",
        "none+flip",
        "flip+none",
        "rotate",
        "4",
        "cutout",
        "cutout0",
        "cutout08",
        "rrc4",
        "flip2",
        "flip+flip",
        "crop4+crop8",
        "cutout8+cutout16",
        "autoaugment+autoaugment",
        "crop4+rrc",
        "rrc+flip+crop4",
    ],
)
def test_what_is_not_understood_is_an_error(text):
    with pytest.raises(ValueError, match="is not understood; use 'none', or words joined by") as caught:
        Augmentation.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
def test_none_is_the_identity(channels):
    augmentation, images = Augmentation.parse("none"), squares(channels=channels)
    drawn = augmentation.draw(8, seed=1, step=2)
    assert (drawn[:, [ROW, COLUMN, FLIP]] == 0).all()
    assert torch.equal(augmentation.view(images, range(8), drawn), images.pixels)
    assert torch.equal(augmentation.apply(batch(), drawn), batch())


@pytest.mark.parametrize("text", ["crop1", "crop4", "crop7", "flip", "crop4+flip"])
def test_each_image_is_cropped_and_flipped_as_by_hand(text):
    augmentation, images = Augmentation.parse(text), batch(32)
    drawn = augmentation.draw(32, seed=1, step=2)
    result = augmentation.apply(images, drawn)
    assert (result.dtype, result.shape) == (torch.uint8, images.shape)
    for image, numbers, got in zip(images, drawn[:, :3].tolist(), result, strict=True):
        assert np.array_equal(got.numpy(), by_hand(image, augmentation.spec.crop, *numbers))


def test_a_crop_computed_by_hand():
    image = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)
    result = Augmentation.parse("crop1+flip").apply(image, numbers(row=2, column=1, flip=1))
    assert result.tolist() == [[[[4, 3], [0, 0]]]]


def test_middle_crop_without_flip_is_the_identity():
    augmentation, images = Augmentation.parse("crop3+flip"), batch()
    assert torch.equal(augmentation.apply(images, numbers(row=3, column=3).expand(8, 6)), images)


def test_flip_mirrors_left_and_right_of_the_drawn_images_only():
    augmentation, images = Augmentation.parse("flip"), batch(3)
    drawn = torch.cat([numbers(), numbers(flip=1), numbers()])
    result = augmentation.apply(images, drawn)
    assert torch.equal(result[[0, 2]], images[[0, 2]])
    assert torch.equal(result[1], images[1].flip(2))


@pytest.mark.parametrize(
    ("size", "row", "column", "rows", "columns"),
    [
        (1, 0, 0, [0], [0]),
        (1, 65535, 65535, [5], [8]),
        (2, 0, 0, [0], [0]),  # half of it beyond the border
        (2, 65535, 0, [4, 5], [0]),
        (3, 32768, 32768, [2, 3, 4], [3, 4, 5]),
        (3, 0, 65535, [0, 1], [7, 8]),
        (4, 32768, 32768, [1, 2, 3, 4], [2, 3, 4, 5]),
        (40, 0, 65535, range(6), range(9)),
    ],
)
def test_cutout_is_a_grey_square_around_the_centre(size, row, column, rows, columns):
    image = batch(1)
    result = Augmentation.parse(f"cutout{size}").apply(image, numbers(cut_row=row, cut_column=column))
    expected = image.clone()
    for y in rows:
        for x in columns:
            expected[0, :, y, x] = 128
    assert torch.equal(result, expected)


def test_cutout_reaches_every_pixel_and_is_the_same_in_all_channels():
    images = torch.zeros(4000, 3, 6, 9, dtype=torch.uint8)
    augmentation = Augmentation.parse("cutout1")
    cut = augmentation.apply(images, augmentation.draw(4000, seed=0, step=0))
    assert torch.equal(cut, cut[:, :1].expand(-1, 3, -1, -1))
    assert (cut[:, 0].flatten(1) == 128).sum(dim=1).eq(1).all()
    hits = (cut[:, 0] == 128).sum(dim=0)
    assert 40 < hits.min() <= hits.max() < 115  # of 4000 / 54 = 74 expected


def test_cutout_covers_what_the_other_steps_made():
    augmentation = Augmentation.parse("crop4+flip+autoaugment+cutout2")
    drawn = numbers(row=8, column=8, flip=1, cut_row=32768, cut_column=32768, seed=5)
    result = augmentation.apply(batch(1), drawn)
    assert (result[0, :, 2:4, 3:5] == 128).all()


def test_autoaugment_takes_flipped_and_cropped_pixels_and_each_images_own_seed():
    augmentation, images = Augmentation.parse("crop4+flip+autoaugment"), batch(64)
    drawn = augmentation.draw(64, seed=1, step=2)
    result = augmentation.apply(images, drawn)
    rows = zip(images, drawn[:, :3].tolist(), strict=True)
    cropped = torch.from_numpy(np.stack([by_hand(image, 4, *row) for image, row in rows]))
    assert torch.equal(result, autoaugment(cropped, drawn[:, SEED]))
    assert sum(not torch.equal(*pair) for pair in zip(cropped, result, strict=True)) > 32


def test_crops_and_flips_are_torchvisions_and_equally_likely():
    augmentation, images = Augmentation.parse("crop4+flip"), batch(1).expand(16200, -1, -1, -1)
    drawn = augmentation.draw(16200, seed=3, step=4)
    cells = drawn[:, ROW] * 18 + drawn[:, COLUMN] * 2 + drawn[:, FLIP]
    assert p_value(torch.bincount(cells, minlength=162)) > 0.01
    result = augmentation.apply(images, drawn)
    for row, column, flip in torch.cartesian_prod(torch.arange(9), torch.arange(9), torch.arange(2)).tolist():
        image = functional.hflip(images[0]) if flip else images[0]
        expected = functional.crop(functional.pad(image, 4), row, column, 6, 9)
        assert (result[cells == row * 18 + column * 2 + flip] == expected).all()


@pytest.mark.parametrize("size", [1, 3, 4])
def test_cutout_centres_are_equally_likely_at_every_pixel(size):
    images = torch.zeros(16000, 1, 8, 8, dtype=torch.uint8)
    augmentation = Augmentation.parse(f"cutout{size}")
    drawn = augmentation.draw(16000, seed=5, step=6)
    centres = drawn[:, [CUT_ROW, CUT_COLUMN]] * 8 // 65536
    assert p_value(torch.bincount(centres[:, 0] * 8 + centres[:, 1], minlength=64)) > 0.01
    expected = torch.zeros(16000, 8, 8, dtype=torch.uint8)
    for square, (row, column) in zip(expected, centres.tolist(), strict=True):
        top, left = row - size // 2, column - size // 2
        square[max(top, 0) : top + size, max(left, 0) : left + size] = 128
    assert torch.equal(augmentation.apply(images, drawn)[:, 0], expected)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
@pytest.mark.parametrize("text", ALL)
def test_view_of_an_image_depends_on_its_own_numbers_alone(text, channels):
    augmentation, images = Augmentation.parse(text), squares(16, channels)
    drawn = augmentation.draw(16, seed=5, step=7)
    together = augmentation.view(images, range(16), drawn)
    assert (together.dtype, together.shape) == (torch.uint8, images.pixels.shape)
    order = np.random.default_rng(0).permutation(16)
    assert torch.equal(augmentation.view(images, order, drawn[order]), together[order])
    alone = [augmentation.view(images, [index], drawn[[index]]) for index in range(16)]
    assert torch.equal(torch.cat(alone), together)


@pytest.mark.parametrize("text", ALL)
@pytest.mark.parametrize("world_size", [2, 4])
def test_each_worker_does_its_part_of_the_global_batch(world_size, text):
    augmentation, images = Augmentation.parse(text), squares(16)
    drawn = augmentation.draw(16, seed=5, step=7)
    share = 16 // world_size
    parts = [
        augmentation.view(images, range(start, start + share), drawn[start : start + share])
        for start in range(0, 16, share)
    ]
    assert torch.equal(torch.cat(parts), augmentation.view(images, range(16), drawn))


@pytest.mark.parametrize("text", ALL)
def test_torchs_global_random_numbers_neither_matter_nor_move(text):
    augmentation, images = Augmentation.parse(text), squares()
    drawn = augmentation.draw(8, seed=5, step=7)
    views = []
    with torch.random.fork_rng(devices=[]):
        for seed in (0, 1):
            torch.manual_seed(seed)
            state = torch.get_rng_state()
            views.append(augmentation.view(images, range(8), drawn))
            assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(*views)


@pytest.mark.parametrize("text", ALL)
def test_numbers_for_another_number_of_images_are_an_error(text):
    augmentation = Augmentation.parse(text)
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
    assert sum(not torch.equal(*pair) for pair in zip(result, images.pixels, strict=True)) > 4


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


@pytest.mark.parametrize("text", ALL)
def test_input_is_left_as_it_was(text):
    augmentation, images, held = Augmentation.parse(text), batch(), squares()
    drawn = augmentation.draw(8, seed=0, step=0)
    before, held_before, drawn_before = images.clone(), held.pixels.clone(), drawn.clone()
    augmentation.apply(images, drawn)
    augmentation.view(held, range(8), drawn)
    assert torch.equal(images, before)
    assert torch.equal(held.pixels, held_before)
    assert torch.equal(drawn, drawn_before)


def test_draws_have_the_right_shape_and_range():
    drawn = Augmentation.parse("crop4+flip").draw(4096, seed=0, step=0)
    assert (drawn.shape, drawn.dtype) == ((4096, 6), torch.int64)
    assert sorted(set(drawn[:, ROW].tolist())) == sorted(set(drawn[:, COLUMN].tolist())) == list(range(9))
    assert sorted(set(drawn[:, FLIP].tolist())) == [0, 1]
    centres = drawn[:, [CUT_ROW, CUT_COLUMN]]
    assert 0 <= centres.min() < 100 < 65436 < centres.max() < 65536
    assert 0 <= drawn[:, SEED].min() < 2**52 < 2**61 < drawn[:, SEED].max() < 2**62
    assert len(set(drawn[:, SEED].tolist())) == 4096


def test_about_half_are_flipped_and_crops_and_cutouts_are_even():
    drawn = Augmentation.parse("crop4+flip").draw(9000, seed=0, step=0)
    assert abs(drawn[:, FLIP].float().mean() - 0.5) < 0.03
    for column in (ROW, COLUMN):
        counts = torch.bincount(drawn[:, column], minlength=9)
        assert (counts - 1000).abs().max() < 150
    for column in (CUT_ROW, CUT_COLUMN):
        counts = torch.bincount(drawn[:, column] * 9 // 65536, minlength=9)
        assert (counts - 1000).abs().max() < 150
    correlations = torch.corrcoef(drawn.T.double()) - torch.eye(6)
    assert correlations.abs().max() < 0.05


def test_draws_differ_from_image_to_image():
    drawn = Augmentation.parse("crop4+flip").draw(162, seed=0, step=0)
    assert len({tuple(row) for row in drawn[:, :3].tolist()}) > 80


def test_draws_are_a_function_of_seed_and_step():
    augmentation = Augmentation.parse("crop4+flip")
    keys = [(seed, step) for seed in (0, 1, 2**63 - 1) for step in (0, 1, 10**6)]
    first = [augmentation.draw(64, seed, step) for seed, step in keys]
    again = [augmentation.draw(64, seed, step) for seed, step in reversed(keys)][::-1]
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert len({tuple(drawn[:, :3].flatten().tolist()) for drawn in first}) == len(keys)
    assert len({seed for drawn in first for seed in drawn[:, SEED].tolist()}) == 64 * len(keys)


def test_views_are_the_same_in_every_process(run_python):
    code = (
        "import hashlib, torch; from data.augment import Augmentation;"
        "from data.sources.noise import NoiseImages;"
        "augmentation = Augmentation.parse('rrc+flip+autoaugment+cutout3'); torch.manual_seed(9);"
        "images = NoiseImages('noise-smooth', 0, 3, 16); drawn = augmentation.draw(8, 1, 2);"
        "view = augmentation.view(images, range(8), drawn).numpy().tobytes();"
        "print(hashlib.sha256(view).hexdigest())"
    )
    done = [run_python("-c", code, OMP_NUM_THREADS=num) for num in ("1", "2")]
    assert all(run.returncode == 0 for run in done), done[0].stderr
    assert done[0].stdout == done[1].stdout


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_number_of_channels_is_cropped_alike(channels):
    augmentation = Augmentation.parse("crop2+flip")
    images = batch()[:, :1].repeat(1, channels, 1, 1)
    result = augmentation.apply(images, augmentation.draw(8, seed=0, step=0))
    assert torch.equal(result, result[:, :1].expand(-1, channels, -1, -1))
