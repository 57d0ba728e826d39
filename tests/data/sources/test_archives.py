"""Zip and tar archives of images: layouts, hostile members, damage, and opening from elsewhere."""

import io
import os
import pickle
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.decode import UndecodableError, read_square
from data.sources.archives import archive_source
from data.sources.base import Item, SourceError
from data.sources.members import open_packed, open_span
from data.sources.named import open_source
from data.sources.scratch import write_scratch

TAR_MODES = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}
SUFFIXES = [".zip", *TAR_MODES]

LAYOUTS = {
    "class folders": {"cat/1.png": ("cat", None), "dog/1.png": ("dog", None)},
    "a single class stays": {"cat/1.png": ("cat", None), "cat/2.png": ("cat", None)},
    "flat": {"1.png": (None, None), "2.png": (None, None)},
    "train and test": {"test/cat/1.png": ("cat", "test"), "train/cat/1.png": ("cat", "train")},
    "train alone": {"train/cat/1.png": ("cat", "train"), "train/dog/1.png": ("dog", "train")},
    "flat train and test": {"test/1.png": (None, "test"), "train/1.png": (None, "train")},
    "nested beside another": {"cat/a/1.png": ("cat", None), "dog/1.png": ("dog", None)},
}
WRAPPED = {
    "class folders": (["top/cat/1.png", "top/dog/1.png"], {"cat/1.png": "cat", "dog/1.png": "dog"}),
    "a single class": (["top/cat/1.png"], {"cat/1.png": "cat"}),
    "twice": (["a/b/cat/1.png", "a/b/dog/1.png"], {"cat/1.png": "cat", "dog/1.png": "dog"}),
    "splits": (
        ["top/train/cat/1.png", "top/test/cat/1.png"],
        {"train/cat/1.png": "cat", "test/cat/1.png": "cat"},
    ),
}


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8))


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "png")
    return buffer.getvalue()


def write_archive(path: Path, names: list[str]) -> Path:
    """An image of its own for each name, its seed the name's place."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for seed, name in enumerate(names):
                archive.writestr(name, png(seed))
        return path
    with tarfile.open(path, TAR_MODES["".join(path.suffixes)]) as tar:
        for seed, name in enumerate(names):
            add(tar, name, png(seed))
    return path


def add(
    tar: tarfile.TarFile, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, len(content)
    tar.addfile(member, io.BytesIO(content))


def listed(path: Path) -> dict[str, tuple[str | None, str | None]]:
    return {item.name: (item.label, item.split) for item in archive_source(path).items}


def message(path: Path) -> str:
    with pytest.raises(SourceError) as caught:
        _ = archive_source(path).items
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pixels_of(item: Item) -> bytes:
    return item.open().tobytes()


@pytest.fixture(params=SUFFIXES)
def suffix(request):
    return request.param


@pytest.mark.parametrize("expected", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layout_gives_labels_and_splits(tmp_path, suffix, expected):
    assert listed(write_archive(tmp_path / f"x{suffix}", [*expected])) == expected


@pytest.mark.parametrize(("names", "expected"), WRAPPED.values(), ids=WRAPPED.keys())
def test_folders_that_wrap_everything_are_looked_through(tmp_path, names, expected):
    for suffix in (".zip", ".tgz"):
        found = listed(write_archive(tmp_path / f"x{suffix}", names))
        assert {name: label for name, (label, _) in found.items()} == expected


def test_an_archive_lists_what_its_folder_would(tmp_path, write_images):
    names = ["train/cat/1.png", "train/dog/a b.png", "val/cat/2.png"]
    folder = write_images(tmp_path / "pets", *names)
    with tarfile.open(tmp_path / "pets.tar", "w") as tar:
        tar.add(folder, "pets")
    of_folder, of_tar = open_source("pets", str(tmp_path)), open_source("pets.tar", str(tmp_path))
    for ours, theirs in zip(of_tar.items, of_folder.items, strict=True):
        assert (ours.name, ours.label, ours.split) == (theirs.name, theirs.label, theirs.split)
        assert pixels_of(ours) == pixels_of(theirs)


@pytest.mark.parametrize(
    "name",
    [
        "two words/a picture.png",
        'it\'s/"quoted".png',
        "naïve 猫/ñandú 🐈.png",
        "v1..2/a..b.png",
        "-d/--o;$(x)`y`.png",
    ],
)
def test_strange_names_are_listed_and_opened(tmp_path, suffix, name):
    items = archive_source(write_archive(tmp_path / f"x y{suffix}", [name, "z/1.png"])).items
    assert (items[0].name, items[0].label) == (name, name.split("/")[0]) or items[1].name == name
    assert {item.name for item in items} == {name, "z/1.png"}
    assert {pixels_of(item) for item in items} == {picture(0).tobytes(), picture(1).tobytes()}


def test_names_in_bytes_that_are_no_text_are_shown(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        add(tar, os.fsdecode(b"cat/\xff.png"), png())
    assert [*listed(tmp_path / "x.tar")] == ["cat/\\xff.png"]


def test_zip_names_that_do_not_say_they_are_utf_8_are_read_as_such(tmp_path):
    path = write_archive(tmp_path / "x.zip", ["猫/1.png"])
    content = path.read_bytes().replace(b"PK\x03\x04\x14\x00\x00\x08", b"PK\x03\x04\x14\x00\x00\x00")
    path.write_bytes(
        content.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x08", b"PK\x01\x02\x14\x03\x14\x00\x00\x00")
    )
    assert zipfile.ZipFile(path).namelist() != ["猫/1.png"]
    assert listed(path) == {"猫/1.png": ("猫", None)}


def test_names_that_lead_out_are_passed_over_or_brought_in(tmp_path, suffix):
    names = [
        "../evil/1.png",
        "cat/../../2.png",
        "/abs/3.png",
        "./cat/4.png",
        "cat//5.png",
        ".hid/6.png",
        "cat/._7.png",
    ]
    path = write_archive(tmp_path / f"x{suffix}", names)
    assert listed(path) == {
        "abs/3.png": ("abs", None),
        "cat/4.png": ("cat", None),
        "cat/5.png": ("cat", None),
    }
    assert sorted(tmp_path.iterdir()) == [path]


def test_links_and_devices_are_passed_over(tmp_path):
    (tmp_path / "secret.png").write_bytes(png(3))
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        add(tar, "cat/1.png", png())
        add(tar, "cat/2.png", kind=tarfile.SYMTYPE, link=str(tmp_path / "secret.png"))
        for number, kind in enumerate(
            (tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE), start=4
        ):
            add(tar, f"cat/{number}.png", kind=kind)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("cat/1.png", png())
        link = zipfile.ZipInfo("cat/2.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, str(tmp_path / "secret.png"))
        archive.writestr("cat/3.png/", b"")
    assert [*listed(tmp_path / "x.tar")] == [*listed(tmp_path / "x.zip")] == ["cat/1.png"]


def test_classes_in_test_alone_are_refused(tmp_path):
    with pytest.raises(SourceError, match="has test and val but no train"):
        listed(write_archive(tmp_path / "x.zip", ["test/a/1.png", "val/a/1.png"]))
    assert [*listed(write_archive(tmp_path / "y.zip", ["test/a/1.png", "test/b/1.png"]))] == [
        "a/1.png",
        "b/1.png",
    ]


def test_hard_links_are_refused(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        add(tar, "cat/1.png", png())
        add(tar, "cat/2.png", kind=tarfile.LNKTYPE, link="cat/1.png")
    with pytest.raises(
        SourceError, match=r"cat/2\.png is a hard link; archive with tar's --hard-dereference"
    ):
        listed(tmp_path / "x.tar")


@pytest.mark.parametrize(("system", "name"), [(0, "x/cat/1.png"), (3, "x\\cat\\1.png")])
def test_back_slashes_of_windows_are_folders(tmp_path, system, name):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        member = zipfile.ZipInfo("x\\cat\\1.png")
        member.create_system = system
        archive.writestr(member, png())
        archive.writestr("dog/1.png", png())
    assert [*listed(tmp_path / "x.zip")] == sorted([name, "dog/1.png"])


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", [".zip", ".tar"])
def test_of_a_name_that_occurs_twice_the_last_counts(tmp_path, kind):
    items = archive_source(write_archive(tmp_path / f"x{kind}", ["a/1.png", "a/2.png", "a/1.png"])).items
    assert [item.name for item in items] == ["a/1.png", "a/2.png"]
    assert pixels_of(items[0]) == picture(2).tobytes()


def test_long_names_and_many_members(tmp_path, suffix):
    names = [f"{'long' * 40}/{number:04d}{'x' * 90}.png" for number in range(300)]
    items = archive_source(write_archive(tmp_path / f"x{suffix}", names)).items
    assert [item.name for item in items] == names
    assert pixels_of(items[217]) == picture(217).tobytes()


def test_truncated_archive_is_refused_by_name(tmp_path, suffix):
    path = write_archive(tmp_path / f"x{suffix}", [f"cat/{number}.png" for number in range(30)])
    content = path.read_bytes()
    for length in (0, 100, len(content) // 2, len(content) - len(content) // 4):
        path.write_bytes(content[:length])
        assert message(path).startswith(f"{path} is truncated"), length


def test_tar_cut_between_two_members_is_refused(tmp_path):
    path = write_archive(tmp_path / "x.tar", ["a/1.png", "a/2.png"])
    with tarfile.open(path) as tar:
        second = tar.getmembers()[1].offset
    path.write_bytes(path.read_bytes()[:second])
    assert "its end is missing" in message(path)


@pytest.mark.parametrize("content", [b"no archive at all" * 100, bytes(2000)], ids=["text", "zeros"])
def test_other_content_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    assert str(path) in message(path)


def test_damaged_header_within_a_tar_is_refused(tmp_path):
    path = write_archive(tmp_path / "x.tar", ["a/1.png", "a/2.png", "a/3.png"])
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        content[tar.getmembers()[1].offset + 2] ^= 255
    path.write_bytes(content)
    assert "damaged" in message(path)


@pytest.mark.parametrize("kind", [".zip", ".tar", ".tgz"])
def test_archive_without_images_is_refused(tmp_path, kind):
    path = write_archive(tmp_path / f"x{kind}", ["notes.txt", "cat/1.json"])
    assert message(path).startswith(f"{path} holds no image file; it needs ")


def test_classes_beside_splits_are_refused_by_name(tmp_path):
    path = write_archive(tmp_path / "x.zip", ["train/cat/1.png", "test/cat/1.png", "extra/1.png"])
    assert message(path).startswith(f"{path} has test and train beside extra")


def test_encrypted_zip_is_refused(tmp_path):
    path = write_archive(tmp_path / "x.zip", ["a/1.png"])
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    assert message(path) == f"{path} is encrypted; give one without a password"


def test_unknown_packing_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a/1.png", png())
    assert "a/1.png is packed by method 14; use deflate or store" in message(tmp_path / "x.zip")


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2], ids=str)
def test_each_packing_gives_the_picture(tmp_path, packing):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", packing) as archive:
        archive.writestr("a/1.png", png(4))
    (item,) = archive_source(tmp_path / "x.zip").items
    assert pixels_of(item) == picture(4).tobytes()


def test_damaged_member_is_one_bad_image(tmp_path):
    path = write_archive(tmp_path / "x.zip", ["a/1.png", "a/2.png"])
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("a/1.png").header_offset + 30 + len("a/1.png")
    content = bytearray(path.read_bytes())
    content[start + 40] ^= 255
    path.write_bytes(content)
    bad, good = archive_source(path).items
    with pytest.raises(UndecodableError, match="damaged in the archive"):
        read_square(bad.open, channels=3, image_size=4)
    assert pixels_of(good) == picture(1).tobytes()


def test_absurd_sizes_are_refused_when_opened(tmp_path):
    path = write_archive(tmp_path / "x.zip", ["a/1.png"])
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\1\2") + 24
    content[place : place + 4] = (2**30 + 1).to_bytes(4, "little")
    path.write_bytes(content)
    (item,) = archive_source(path).items
    with pytest.raises(OSError, match="1,073,741,825 bytes"):
        item.open()
    with pytest.raises(OSError, match="an image may have"):
        open_span(str(path), 0, 2**30 + 1)


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2], ids=["deflate", "bzip2"])
def test_a_member_unpacks_to_no_more_than_it_says(tmp_path, packing):
    """A bomb: ten megabytes in some kilobytes, said to be 100 bytes."""
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("a/1.png", bytes(10_000_000))
        member = archive.getinfo("a/1.png")
    tracemalloc.start()
    with pytest.raises(OSError, match="checksum"):
        open_packed(str(path), 0, member.compress_size, 100, packing, member.CRC)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_identity_is_known_without_reading(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"nonsense")
    os.utime(path, ns=(0, 10**18))
    before = archive_source(path).identity
    path.write_bytes(b"NONSENSE")
    os.utime(path, ns=(0, 10**18))
    assert archive_source(path).identity == before
    os.utime(path, ns=(0, 10**18 + 1))
    assert archive_source(path).identity != before


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
    assert found == [picture(int(item.name[2:5])).tobytes() for item in items]


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("kind", [".zip", ".tar", ".tgz"])
def test_items_open_in_other_processes(tmp_path, kind, start):
    names = [f"a/{number}.png" for number in range(8)]
    items = [*archive_source(write_archive(tmp_path / f"x{kind}", names)).items]
    expected = [pixels_of(item) for item in items]
    assert max(len(pickle.dumps(item)) for item in items) < 500
    with ProcessPoolExecutor(2, mp_context=get_context(start)) as processes:
        assert [*processes.map(pixels_of, items)] == expected


def test_a_million_items_would_be_small(tmp_path):
    items = archive_source(write_archive(tmp_path / "x.tar", [f"a/{n}.png" for n in range(100)])).items
    assert items.opener.args[-1].nbytes == 100 * 16


def test_missing_file_and_other_kinds_are_refused(tmp_path):
    with pytest.raises(SourceError, match=r"x\.zip does not exist or is no file"):
        archive_source(tmp_path / "x.zip")
    (tmp_path / "x.rar").write_bytes(b"")
    with pytest.raises(SourceError, match=r"x\.rar is no kind of file known here; .*\.parquet.*\.zip, \.tar"):
        open_source("x.rar", str(tmp_path))


def test_scratch_goes_with_the_process_that_made_it(tmp_path):
    archive = write_archive(tmp_path / "x.tgz", ["a/1.png"])
    code = (
        "import sys, os; from data.sources.archives import archive_source; from pathlib import Path\n"
        "source = archive_source(sys.argv[1], sys.argv[2]); source.items[0].open().load()\n"
        "assert len(os.listdir(sys.argv[2])) == 1\n"
        "if sys.argv[3] == 'killed': os.kill(os.getpid(), 9)\n"
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for end, left in (("ends", 0), ("killed", 1), ("ends", 0)):
        subprocess.run([sys.executable, "-c", code, archive, scratch, end], check=False)
        assert len([*scratch.iterdir()]) == left, end


def test_scratch_in_use_is_left_alone(tmp_path):
    first = write_scratch(lambda file: file.write(b"1"), str(tmp_path))
    second = write_scratch(lambda file: file.write(b"2"), str(tmp_path))
    assert [Path(path).read_bytes() for path in (first, second)] == [b"1", b"2"]


def test_a_damaged_archive_leaves_no_scratch(tmp_path):
    path = write_archive(tmp_path / "x.tgz", ["a/1.png"])
    path.write_bytes(path.read_bytes()[:-9])
    (tmp_path / "scratch").mkdir()
    with pytest.raises(SourceError, match="truncated"):
        _ = archive_source(path, str(tmp_path / "scratch")).items
    assert not [*(tmp_path / "scratch").iterdir()]
