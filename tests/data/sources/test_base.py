"""Layouts, names, identity and errors of image collections."""

import os

import pytest
from PIL import Image

from data.sources.base import Item, Source, SourceError, folder_source, is_shards
from tests.support.data_files import STRANGE_NAMES, picture, pixels_of, write_files

LAYOUTS = {
    "class folders": {"cat/1.png": ("cat", None), "dog/1.png": ("dog", None)},
    "train alone": {"train/cat/1.png": ("cat", "train"), "train/dog/1.png": ("dog", "train")},
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


def test_strange_names_are_listed_and_opened(tmp_path, write_images):
    names = sorted([*STRANGE_NAMES, "a/1.PNG", "a/2.Jpg", "a/3.webp"])
    source = folder_source(write_images(tmp_path, *names))
    assert [(item.name, item.label) for item in source.items] == [(n, n.split("/")[0]) for n in names]
    for item in source.items:
        assert pixels_of(item) == Image.open(tmp_path / item.name).tobytes()


@pytest.mark.parametrize("name", [".hidden.png", "cat/.2.png", ".git/cat/1.png", "cat/1.png.json", "cat/png"])
def test_hidden_files_and_folders_and_other_files_are_skipped(tmp_path, write_images, name):
    alone = folder_source(write_images(tmp_path, "cat/1.png")).identity
    source = folder_source(write_files(tmp_path, {name: picture()}))
    assert [item.name for item in source.items] == ["cat/1.png"]
    assert source.identity == alone


def test_symlinked_folders_are_followed(tmp_path, write_images):
    elsewhere = write_images(tmp_path / "elsewhere", "1.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "cat").symlink_to(elsewhere)
    assert [item.name for item in folder_source(tmp_path / "images").items] == ["cat/1.png"]


def test_what_is_no_folder_is_refused(tmp_path, write_images):
    with pytest.raises(SourceError, match="nowhere does not exist"):
        folder_source(tmp_path / "nowhere")
    write_images(tmp_path, "1.png")
    with pytest.raises(SourceError, match=r"1\.png does not exist or is no folder"):
        folder_source(tmp_path / "1.png")


@pytest.mark.parametrize("inside", ["sub/", "notes.txt", ".hidden.png"])
def test_folder_without_images_is_refused(tmp_path, inside):
    (tmp_path / inside).mkdir() if inside == "sub/" else (tmp_path / inside).write_text("")
    with pytest.raises(SourceError, match=r"holds no image file; give a folder with .*\.png"):
        folder_source(tmp_path)


def test_identity_does_not_depend_on_order_of_creation_or_place(tmp_path, write_images):
    names = [f"{label}/{number}.png" for label in "ab" for number in range(6)]
    identities = set()
    for folder, order in (("first", names), ("second", names[::-1])):
        for name in order:
            write_images(tmp_path / folder, name)
            os.utime(tmp_path / folder / name, ns=(0, 10**18))
        identities.add(folder_source(tmp_path / folder).identity)
    assert len(identities) == 1


CHANGES = {
    "add": lambda folder: (folder / "b" / "9.png").write_bytes(b"x"),
    "remove": lambda folder: (folder / "a" / "2.png").unlink(),
    "touch": lambda folder: os.utime(folder / "a" / "1.png", ns=(0, 10**18 + 1)),
    "rename": lambda folder: (folder / "a" / "1.png").rename(folder / "a" / "0.png"),
    "grow": lambda folder: [
        (folder / "a/1.png").write_bytes(b"x"),
        os.utime(folder / "a/1.png", ns=(0, 10**18)),
    ],
    "move to another class": lambda folder: (folder / "a" / "2.png").rename(folder / "b" / "2.png"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_identity_changes_with_the_files(tmp_path, write_images, change):
    write_images(tmp_path, "a/1.png", "a/2.png", "b/1.png")
    os.utime(tmp_path / "a" / "1.png", ns=(0, 10**18))
    before = folder_source(tmp_path).identity
    assert folder_source(str(tmp_path)).identity == before
    change(tmp_path)
    assert folder_source(tmp_path).identity != before


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


@pytest.mark.parametrize("train", ["train", "Train", "training"])
@pytest.mark.parametrize("test", ["test", "testing", "Val", "valid", "validation"])
def test_split_folders_in_any_spelling(tmp_path, write_images, train, test):
    source = folder_source(write_images(tmp_path, f"{train}/cat/1.png", f"{test}/cat/1.png"))
    assert source.classes == ["cat"]
    assert sorted(str(item.split) for item in source.items) == ["test", "train"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["test/a/1.png"], "has .* but no train; add it, or give the folder that holds"),
        (["Val/a/1.png", "test/2.png"], "has .* but no train"),
        (["test/a/1.png", "2.png"], "has .* but no train"),
        (["train/a/1.png", "test/a/1.png", "val/a/1.png"], "test and val, all of them test images; keep one"),
        (
            ["train/a/1.png", "test/a/1.png", "x/1.png"],
            "has test and train beside x; keep only train and test",
        ),
    ],
)
def test_unclear_splits_are_refused(tmp_path, write_images, names, told):
    with pytest.raises(SourceError, match=told):
        folder_source(write_images(tmp_path, *names))


def test_folders_for_the_terminal_are_shown_escaped(hostile_sources):
    names = "; ".join(f"{name}/1.png ({name})" for name in ("<b>d", "b\\nc", "e\\x1b[2J"))
    assert hostile_sources["folders for the terminal"].said == f"3 images: {names}"


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["a.tar", "README.md"], True), (["a.tar", "cat/1.png"], False), (["1.png"], False), ([], False)],
    ids=str,
)
def test_what_counts_as_shards(names, expected):
    assert is_shards(names) == expected
