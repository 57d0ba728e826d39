"""Layouts, names, identity and errors of image collections."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.sources.base import Item, Source, SourceError, folder_source

LAYOUTS = {
    "class folders": {
        "cat/1.png": ("cat", None),
        "cat/2.png": ("cat", None),
        "dog/1.png": ("dog", None),
    },
    "train and test": {
        "test/cat/1.png": ("cat", "test"),
        "train/cat/1.png": ("cat", "train"),
        "train/dog/1.png": ("dog", "train"),
    },
    "train and val": {"train/cat/1.png": ("cat", "train"), "val/cat/2.png": ("cat", "test")},
    "train and valid": {"train/cat/1.png": ("cat", "train"), "valid/cat/2.png": ("cat", "test")},
    "train and validation": {"train/cat/1.png": ("cat", "train"), "validation/cat/2.png": ("cat", "test")},
    "flat train and val": {"train/1.png": (None, "train"), "val/1.png": (None, "test")},
    "flat train, test and val": {
        "test/1.png": (None, "test"),
        "train/1.png": (None, "train"),
        "val/1.png": (None, "test"),
    },
    "flat train alone is a class": {"train/1.png": ("train", None)},
    "flat test alone is a class": {"test/1.png": ("test", None)},
    "flat test and val are classes": {"test/1.png": ("test", None), "val/1.png": ("val", None)},
    "train and test beside another class": {
        "bus/1.png": ("bus", None),
        "test/1.png": ("test", None),
        "train/1.png": ("train", None),
    },
    "flat": {"1.png": (None, None), "2.png": (None, None)},
    "nested": {"cat/2020/may/1.png": ("cat", None), "dog/1.png": ("dog", None)},
    "nested below splits": {"test/cat/a/1.png": ("cat", "test"), "train/cat/b/c/1.png": ("cat", "train")},
    "a class called train": {"plane/1.png": ("plane", None), "train/1.png": ("train", None)},
    "flat splits": {"test/1.png": (None, "test"), "train/1.png": (None, "train")},
    "a class called train in splits": {
        "test/train/1.png": ("train", "test"),
        "train/train/1.png": ("train", "train"),
    },
    "train beside another class": {"bus/small/1.png": ("bus", None), "train/old/1.png": ("train", None)},
}


@pytest.mark.parametrize("expected", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layout_gives_labels_and_splits(tmp_path, write_images, expected):
    source = folder_source(write_images(tmp_path, *expected))
    assert {item.name: (item.label, item.split) for item in source.items} == expected
    assert source.classes == sorted({label for label, _ in expected.values() if label})


@pytest.mark.parametrize(
    "name",
    [
        "two words/a picture.png",
        'it\'s/"quoted".png',
        "naïve 猫/ñandú 🐈.png",
        "v1..2/a..b.png",
        "a../x...png",
        "semi;colon/a&b$(c)`d`.png",
        "star*[x]{1..3}?/%20#hash.png",
        "back\\slash/a\\b.png",
        "-dash/--option.png",
        "cat.png/x.png",
    ],
)
def test_strange_names_are_listed_and_opened(tmp_path, write_images, name):
    source = folder_source(write_images(tmp_path, name))
    assert [(item.name, item.label) for item in source.items] == [(name, name.split("/")[0])]
    with source.items[0].open() as image:
        assert image.size == (7, 5)


def test_items_open_their_own_picture(tmp_path, write_images):
    source = folder_source(write_images(tmp_path, "a/1.png", "a/2.png", "b/1.png"))
    for item in source.items:
        with item.open() as opened, Image.open(tmp_path / item.name) as expected:
            assert np.array_equal(np.asarray(opened), np.asarray(expected))


@pytest.mark.parametrize("hidden", [".hidden.png", "cat/.2.png", ".git/cat/1.png", "cat/.thumbs/1.png"])
def test_hidden_files_and_folders_are_skipped(tmp_path, write_images, hidden):
    alone = folder_source(write_images(tmp_path, "cat/1.png")).identity
    source = folder_source(write_images(tmp_path, hidden))
    assert [item.name for item in source.items] == ["cat/1.png"]
    assert source.identity == alone


def test_only_image_suffixes_in_any_case_are_listed(tmp_path, write_images):
    write_images(tmp_path, "a/1.PNG", "a/2.Jpg", "a/3.webp")
    for name in ("a/labels.txt", "a/png", "a/1.png.json", "Thumbs.db"):
        (tmp_path / name).write_text("no image")
    assert [item.name for item in folder_source(tmp_path).items] == ["a/1.PNG", "a/2.Jpg", "a/3.webp"]


def test_symlinked_folders_are_followed(tmp_path, write_images):
    elsewhere = write_images(tmp_path / "elsewhere", "1.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "cat").symlink_to(elsewhere)
    assert [item.name for item in folder_source(tmp_path / "images").items] == ["cat/1.png"]


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(SourceError, match="nowhere does not exist"):
        folder_source(tmp_path / "nowhere")


def test_file_in_place_of_a_folder_is_refused(tmp_path, write_images):
    write_images(tmp_path, "1.png")
    with pytest.raises(SourceError, match=r"1\.png does not exist or is no folder"):
        folder_source(tmp_path / "1.png")


@pytest.mark.parametrize("inside", [[], ["notes.txt"], [".hidden.png"]], ids=["empty", "text", "hidden"])
def test_folder_without_images_is_refused(tmp_path, inside):
    for name in inside:
        (tmp_path / name).write_text("")
    with pytest.raises(SourceError, match=r"holds no image file; give a folder with .*\.png"):
        folder_source(tmp_path)


def test_items_come_in_sorted_order(tmp_path, write_images):
    names = [f"{label}/{number}.png" for label in "zmab" for number in (7, 10, 3, 1)]
    source = folder_source(write_images(tmp_path, *names))
    assert [item.name for item in source.items] == sorted(names)


def test_identity_does_not_depend_on_order_of_creation_or_place(tmp_path, write_images):
    names = [f"{label}/{number}.png" for label in "ab" for number in range(6)]
    identities = set()
    for folder, order in (("first", names), ("second", names[::-1])):
        for name in order:
            write_images(tmp_path / folder, name)
            os.utime(tmp_path / folder / name, ns=(0, 10**18))
        identities.add(folder_source(tmp_path / folder).identity)
    assert len(identities) == 1


def test_identity_is_the_same_when_nothing_changes(tmp_path, write_images):
    write_images(tmp_path, "a/1.png", "b/1.png")
    assert folder_source(tmp_path).identity == folder_source(str(tmp_path)).identity


def _add(folder: Path) -> None:
    (folder / "b" / "9.png").write_bytes((folder / "a" / "1.png").read_bytes())


def _remove(folder: Path) -> None:
    (folder / "a" / "2.png").unlink()


def _touch(folder: Path) -> None:
    os.utime(folder / "a" / "1.png", ns=(0, (folder / "a" / "1.png").stat().st_mtime_ns + 1))


def _grow(folder: Path) -> None:
    path = folder / "a" / "1.png"
    status = path.stat()
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _rename(folder: Path) -> None:
    (folder / "a" / "1.png").rename(folder / "a" / "0.png")


def _move_to_another_class(folder: Path) -> None:
    (folder / "a" / "2.png").rename(folder / "b" / "2.png")


@pytest.mark.parametrize("change", [_add, _remove, _touch, _grow, _rename, _move_to_another_class])
def test_identity_changes_with_the_files(tmp_path, write_images, change):
    write_images(tmp_path, "a/1.png", "a/2.png", "b/1.png")
    before = folder_source(tmp_path).identity
    change(tmp_path)
    assert folder_source(tmp_path).identity != before


def test_listing_opens_no_file(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"no image at all")
    (tmp_path / "a" / "2.png").write_bytes(b"")
    assert len(folder_source(tmp_path).items) == 2


def test_items_are_loaded_once_and_only_when_asked_for():
    loads = []

    def load() -> tuple[Item, ...]:
        loads.append(1)
        return (Item("1", "b", None, Image.Image), Item("2", "a", None, Image.Image))

    source = Source("some", "0", load)
    assert loads == []
    assert len(source.items) == 2
    assert source.classes == ["a", "b"]
    assert source.items is source.items
    assert loads == [1]


def test_known_classes_are_classes_without_images_too():
    source = Source("some", "0", lambda: (Item("1", "b", None, Image.Image),), ("c", "a", "b"))
    assert source.classes == ["a", "b", "c"]


@pytest.mark.parametrize("splits", [("train", "test"), ("Train", "Val"), ("training", "testing")], ids=str)
def test_split_folders_in_any_spelling(tmp_path, write_images, splits):
    source = folder_source(write_images(tmp_path, *(f"{split}/cat/1.png" for split in splits)))
    assert source.classes == ["cat"]
    assert sorted(str(item.split) for item in source.items) == ["test", "train"]


@pytest.mark.parametrize(
    "names", [["test/a/1.png"], ["Val/a/1.png", "test/2.png"], ["test/a/1.png", "2.png"]]
)
def test_classes_in_test_alone_are_refused(tmp_path, write_images, names):
    with pytest.raises(SourceError, match=r"has .* but no train; add it, or give the folder that holds"):
        folder_source(write_images(tmp_path, *names))


def test_two_folders_for_one_split_are_refused(tmp_path, write_images):
    names = [f"{split}/a/1.png" for split in ("train", "test", "val")]
    with pytest.raises(SourceError, match="has test and val, all of them test images; keep one"):
        folder_source(write_images(tmp_path, *names))


def test_split_folders_beside_something_else_are_refused(tmp_path, write_images):
    write_images(tmp_path, "train/cat/1.png", "test/cat/1.png", "extra/1.png")
    with pytest.raises(SourceError, match="has test and train beside extra; keep only train and test"):
        folder_source(tmp_path)
