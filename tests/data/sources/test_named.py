"""Collections by name: what they hold, where they lie, and what is said when they are not there."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from data.sources.base import Source, SourceError
from data.sources.named import NAMED, digits_source, open_source, photograph_classes
from tests.support.data_files import message_of


def test_openimages_has_no_labels(tmp_path, write_images):
    write_images(tmp_path / "openimages", "train/1.png", "test/1.png")
    source = open_source("openimages", str(tmp_path))
    assert {item.name: item.split for item in source.items} == {"train/1.png": "train", "test/1.png": "test"}
    assert (source.classes, NAMED["openimages"].num_classes) == ([], 0)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("imagenet", ["https://image-net.org", "train/ and val/", "data.root"]),
        ("openimages", ["https://storage.googleapis.com/openimages/web", "data.root", "another folder"]),
    ],
)
def test_missing_folders_are_told_how_to_get(tmp_path, name, parts):
    text = message_of(open_source, name, str(tmp_path))
    assert text.startswith(f"{tmp_path / name} does not exist; ")
    assert all(part in text for part in parts)
    (tmp_path / name).mkdir()
    assert "holds no image file" in message_of(open_source, name, str(tmp_path))


def photographs(num_classes: int) -> Source:
    return open_source(f"photographs-{num_classes}", ".")


@pytest.mark.parametrize("num_classes", [1, 2, 7, 10, 100, 1000])
def test_photographs_are_120_images_in_that_many_classes(num_classes):
    source = photographs(num_classes)
    assert len(source.items) == len({item.name for item in source.items}) == 120
    assert Counter(item.split for item in source.items) == {"train": 100, "test": 20}
    assert source.classes == [f"{label:04d}" for label in range(num_classes)]
    used = Counter(item.label for item in source.items)
    assert len(used) == min(num_classes, 120)
    assert max(used.values()) - min(used.values()) <= 1


def test_photographs_are_square_crops_all_different():
    images = [item.open() for item in photographs(10).items]
    assert {(image.size, image.mode) for image in images} == {((213, 213), "RGB")}
    assert len({image.tobytes() for image in images}) == 120
    assert photographs(10).identity == photographs(10).identity != photographs(11).identity


@pytest.mark.parametrize(
    "name", ["photographs", "photographs-", "photographs-0", "photographs-²", "photographs-1.5"]
)
def test_photographs_without_a_number_of_classes_are_unknown(tmp_path, name):
    assert photograph_classes(name) == 0
    assert "photographs-K" in message_of(open_source, name, str(tmp_path))


def test_images_of_named_collections_open_more_than_once():
    for source in (digits_source(), photographs(3)):
        first, second = source.items[5].open(), source.items[5].open()
        assert first is not second
        assert isinstance(first, Image.Image)
        assert first.tobytes() == second.tobytes()


def test_digits():
    source = open_source("digits", "nowhere")
    assert (source.name, source.identity) == ("digits", digits_source().identity)
    assert len(source.items) == len({item.name for item in source.items}) == 1797
    assert source.classes == [str(digit) for digit in range(10)]
    pixels = np.stack([np.asarray(item.open()) for item in source.items])
    assert (pixels.shape, pixels.dtype) == ((1797, 8, 8), np.uint8)
    assert (pixels.min(), pixels.max(), len(np.unique(pixels))) == (0, 255, 17)
    assert {item.split for item in source.items} == {None}
    labels = np.array([int(item.label) for item in source.items])
    rows = pixels.reshape(-1, 64).astype(np.float64)
    means = np.stack([rows[labels == digit].mean(axis=0) for digit in range(10)])
    nearest = np.square(rows[:, None] - means).sum(axis=2).argmin(axis=1)
    assert (nearest == labels).mean() > 0.85  # labels belong to their images


def test_open_source_by_path_below_root_or_absolute(tmp_path, write_images, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = write_images(tmp_path / "my pets", "cat/1.png")
    given = (("my pets", str(tmp_path)), (str(folder), "/elsewhere"), ("~/my pets", "."), ("my pets", "~"))
    sources = [open_source(*place) for place in given]
    assert len({source.identity for source in sources}) == 1
    assert [[item.name for item in source.items] for source in sources] == [["cat/1.png"]] * 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", r"'digit' is neither a folder in .* nor one of .*digits"),
        ("no/where", "no/where does not exist"),
    ],
    ids=["name", "path"],
)
def test_open_source_refuses_what_is_neither(tmp_path, name, message):
    with pytest.raises(SourceError, match=message):
        open_source(name, str(tmp_path))
