"""Zip and tar archives of images: layouts, names, damage, and opening from elsewhere."""

import os
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest

from data.sources.archives import archive_source
from data.sources.base import SourceError
from data.sources.named import open_source
from tests.support.archives import SUFFIXES, listed, write_archive
from tests.support.data_files import (
    STRANGE_NAMES,
    assert_known_by_size_and_time,
    message_of,
    picture,
    pixels_of,
    shown,
    write_files,
    write_tar,
)

WRAPPED = {
    "class folders": (["top/cat/1.png", "top/dog/1.png"], {"cat/1.png": "cat", "dog/1.png": "dog"}),
    "a single class": (["top/cat/1.png"], {"cat/1.png": "cat"}),
    "nothing": (["cat/1.png", "cat/2.png"], {"cat/1.png": "cat", "cat/2.png": "cat"}),
    "test": (["test/a/1.png", "test/b/1.png"], {"a/1.png": "a", "b/1.png": "b"}),
    "twice": (["a/b/cat/1.png", "a/b/dog/1.png"], {"cat/1.png": "cat", "dog/1.png": "dog"}),
    "splits": (
        ["top/train/cat/1.png", "top/test/cat/1.png"],
        {"train/cat/1.png": "cat", "test/cat/1.png": "cat"},
    ),
}


@pytest.fixture(params=SUFFIXES)
def suffix(request):
    return request.param


@pytest.mark.parametrize(("names", "expected"), WRAPPED.values(), ids=WRAPPED.keys())
def test_folders_that_wrap_everything_are_looked_through(tmp_path, names, expected):
    for suffix in (".zip", ".tgz"):
        found = listed(write_archive(tmp_path / f"x{suffix}", names))
        assert {name: label for name, (label, _) in found.items()} == expected


def test_an_archive_lists_what_its_folder_would(tmp_path, suffix):
    names = [f"{split}/{name}" for name in STRANGE_NAMES for split in ("train", "val")]
    archive = write_archive(tmp_path / f"x y{suffix}", names)
    write_files(tmp_path / "pets", {name: picture(seed) for seed, name in enumerate(names)})
    of_folder, of_archive = (open_source(name, str(tmp_path)) for name in ("pets", archive.name))
    for ours, theirs in zip(of_archive.items, of_folder.items, strict=True):
        assert (ours.name, ours.label, ours.split) == (theirs.name, theirs.label, theirs.split)
        assert pixels_of(ours) == pixels_of(theirs)


def test_names_in_bytes_that_are_no_text_are_shown(tmp_path):
    write_tar(tmp_path / "x.tar", {"cat/\udcff.png": picture()})
    assert [*listed(tmp_path / "x.tar")] == ["cat/\\xff.png"]


def test_names_that_lead_out_are_passed_over_or_brought_in(tmp_path, suffix):
    names = ["../evil/1.png", "cat/../../2.png", "/abs/3.png", "./cat/4.png", "cat//5.png", ".hid/6.png"]
    path = write_archive(tmp_path / f"x{suffix}", [*names, "cat/._7.png"])
    labels = {"abs/3.png": "abs", "cat/4.png": "cat", "cat/5.png": "cat"}
    assert listed(path) == {name: (label, None) for name, label in labels.items()}
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["notes.txt", "cat/1.json"], " holds no image file; it needs "),
        (["train/cat/1.png", "test/cat/1.png", "extra/1.png"], " has test and train beside extra"),
        (["test/a/1.png", "val/a/1.png"], " has test and val but no train"),
    ],
)
def test_layouts_that_are_none_are_refused(tmp_path, suffix, names, told):
    path = write_archive(tmp_path / f"x{suffix}", names)
    assert message_of(archive_source, path).startswith(f"{path}{told}")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", [".zip", ".tar"])
def test_of_a_name_that_occurs_twice_the_last_counts(tmp_path, kind):
    items = archive_source(write_archive(tmp_path / f"x{kind}", ["a/1.png", "a/2.png", "a/1.png"])).items
    assert [item.name for item in items] == ["a/1.png", "a/2.png"]
    assert pixels_of(items[0]) == shown(picture(2))


def test_long_names_and_many_members(tmp_path, suffix):
    names = [f"{'long' * 40}/{number:04d}{'x' * 90}.png" for number in range(300)]
    items = archive_source(write_archive(tmp_path / f"x{suffix}", names)).items
    assert items.opener.args[-1].nbytes <= 300 * 48  # a million would be small
    assert [item.name for item in items] == names
    assert pixels_of(items[217]) == shown(picture(217))


def test_truncated_archive_is_refused_by_name(tmp_path, suffix):
    path = write_archive(tmp_path / f"x{suffix}", [f"cat/{number}.png" for number in range(30)])
    content = path.read_bytes()
    for length in (0, 100, len(content) // 2, len(content) - len(content) // 4):
        path.write_bytes(content[:length])
        assert message_of(archive_source, path).startswith(f"{path} is truncated"), length


@pytest.mark.parametrize("content", [b"no archive at all" * 100, bytes(2000)], ids=["text", "zeros"])
def test_other_content_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    assert str(path) in message_of(archive_source, path)


def test_identity_is_known_without_reading(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"nonsense")
    assert_known_by_size_and_time(lambda: archive_source(path), path)


def test_an_archive_that_changed_is_unpacked_anew(tmp_path):
    path = tmp_path / "x.tgz"
    for time, name in enumerate(("a/1.png", "b/1.png")):
        content = write_archive(path, [name]).read_bytes()
        path.write_bytes(content.ljust(2000, b"\0"))  # of the same size
        os.utime(path, ns=(0, time))
        assert [*listed(path)] == [name]


def test_threads_open_at_once(tmp_path, suffix):
    names = [f"{number % 3}/{number:03d}.png" for number in range(60)]
    items = [*archive_source(write_archive(tmp_path / f"x{suffix}", names)).items] * 4
    with ThreadPoolExecutor(8) as threads:
        found = [*threads.map(pixels_of, items)]
    assert found == [shown(picture(int(item.name[2:5]))) for item in items]


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_items_open_in_other_processes(tmp_path, start):
    names = [f"a/{number}.png" for number in range(4)]
    archives = [write_archive(tmp_path / f"x{kind}", names) for kind in (".zip", ".tar", ".tgz")]
    items = [item for archive in archives for item in archive_source(archive).items]
    expected = [pixels_of(item) for item in items]
    assert max(len(pickle.dumps(item)) for item in items) < 500
    with ProcessPoolExecutor(1, mp_context=get_context(start)) as processes:
        assert [*processes.map(pixels_of, items)] == expected


def test_missing_file_and_other_kinds_are_refused(tmp_path):
    with pytest.raises(SourceError, match=r"x\.zip does not exist or is no file"):
        archive_source(tmp_path / "x.zip")
    (tmp_path / "x.rar").write_bytes(b"")
    with pytest.raises(SourceError, match=r"x\.rar is no kind of file known here; .*\.parquet.*\.zip, \.tar"):
        open_source("x.rar", str(tmp_path))


def test_a_damaged_archive_leaves_no_scratch(tmp_path):
    path = write_archive(tmp_path / "x.tgz", ["a/1.png"])
    path.write_bytes(path.read_bytes()[:-9])
    (tmp_path / "scratch").mkdir()
    with pytest.raises(SourceError, match="truncated"):
        _ = archive_source(path, str(tmp_path / "scratch")).items
    assert not [*(tmp_path / "scratch").iterdir()]
