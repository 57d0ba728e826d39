"""Members of tars and zips: links and devices, names, packings, damage, hostile headers."""

import tarfile
import tracemalloc
import zipfile

import pytest

from data.decode import UndecodableError, read_square
from data.sources.archives import archive_source
from data.sources.members import open_packed, open_span
from tests.support.archives import listed, write_archive
from tests.support.data_files import flip_bit, message_of, picture, pixels_of, shown
from tests.support.hostile_files import assert_refused

REFUSED = {
    "a member of a terabyte": "unexpected end of data",
    "a name of a terabyte": "a header of 1,099,511,627,776 bytes",
    "a name of megabytes": "a header of 2,097,152 bytes",
    "records of a terabyte": "a header of 1,099,511,627,776 bytes",
    "a negative size": "members overlap",
    "names before names": "maximum recursion depth",
    "records before records": "maximum recursion depth",
    "a sparse member of a terabyte": "damaged or no tar archive",
    "a hard link out": "cat/2.png is a hard link; archive with tar's --hard-dereference",
}
READ = {
    "an old sparse member": "1 images: cat/1.png (cat)",
    "ways out": "2 images: abs/6.png (abs); cat/1.png (cat)",
    "ways out, packed": "2 images: abs/6.png (abs); cat/1.png (cat)",
    "a name for the terminal": "1 images: c\\x1b]0;x\\x07t/\\u202e1.png (c\\x1b]0;x\\x07t)",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_words(hostile_sources, name):
    assert_refused(hostile_sources[name], REFUSED[name])


@pytest.mark.parametrize("name", READ)
def test_read_without_what_would_harm(hostile_sources, name):
    assert hostile_sources[name].said == READ[name]


def test_links_and_folders_of_a_zip_are_passed_over(tmp_path):
    (tmp_path / "secret.png").write_bytes(picture(3))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("cat/1.png", picture())
        link = zipfile.ZipInfo("cat/2.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, str(tmp_path / "secret.png"))
        archive.writestr("cat/3.png/", b"")
    assert [*listed(tmp_path / "x.zip")] == ["cat/1.png"]


def test_zip_names_that_do_not_say_they_are_utf_8_are_read_as_such(tmp_path):
    path = write_archive(tmp_path / "x.zip", ["猫/1.png"])
    content = path.read_bytes().replace(b"PK\x03\x04\x14\x00\x00\x08", b"PK\x03\x04\x14\x00\x00\x00")
    path.write_bytes(
        content.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x08", b"PK\x01\x02\x14\x03\x14\x00\x00\x00")
    )
    assert zipfile.ZipFile(path).namelist() != ["猫/1.png"]
    assert listed(path) == {"猫/1.png": ("猫", None)}


@pytest.mark.parametrize(("system", "name"), [(0, "x/cat/1.png"), (3, "x\\cat\\1.png")])
def test_back_slashes_of_windows_are_folders(tmp_path, system, name):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        member = zipfile.ZipInfo("x\\cat\\1.png")
        member.create_system = system
        archive.writestr(member, picture())
        archive.writestr("dog/1.png", picture())
    assert [*listed(tmp_path / "x.zip")] == sorted([name, "dog/1.png"])


def test_damage_at_a_member_of_a_tar_is_refused(tmp_path):
    path = write_archive(tmp_path / "x.tar", ["a/1.png", "a/2.png", "a/3.png"])
    with tarfile.open(path) as tar:
        second = tar.getmembers()[1].offset
    flip_bit(path, second + 2)
    assert f"{path} is truncated, damaged" in message_of(archive_source, path)
    path.write_bytes(path.read_bytes()[:second])
    assert "its end is missing" in message_of(archive_source, path)


def test_encrypted_and_otherwise_packed_zips_are_refused(tmp_path):
    path = write_archive(tmp_path / "x.zip", ["a/1.png"])
    flip_bit(path, path.read_bytes().index(b"PK\1\2") + 8)
    assert message_of(archive_source, path) == f"{path} is encrypted; give one without a password"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a/1.png", picture())
    assert "a/1.png is packed by method 14; use deflate or store" in message_of(archive_source, path)


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2], ids=str)
def test_each_packing_gives_the_picture(tmp_path, packing):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", packing) as archive:
        archive.writestr("a/1.png", picture(4))
    (item,) = archive_source(tmp_path / "x.zip").items
    assert pixels_of(item) == shown(picture(4))


def test_damaged_member_is_one_bad_image(tmp_path):
    path = write_archive(tmp_path / "x.zip", ["a/1.png", "a/2.png"])
    with zipfile.ZipFile(path) as archive:
        flip_bit(path, archive.getinfo("a/1.png").header_offset + 30 + len("a/1.png") + 40)
    bad, good = archive_source(path).items
    with pytest.raises(UndecodableError, match="damaged in the archive"):
        read_square(bad.open, channels=3, image_size=4)
    assert pixels_of(good) == shown(picture(1))


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
    """A member of ten megabytes, compressed to a few kilobytes, that declares 100 bytes."""
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("a/1.png", bytes(10_000_000))
        member = archive.getinfo("a/1.png")
    tracemalloc.start()
    with pytest.raises(OSError, match="checksum"):
        open_packed(str(path), 0, member.compress_size, 100, packing, member.CRC)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
