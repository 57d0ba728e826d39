"""Where image files lie inside tar and zip archives, and reading them from there.

No member is ever extracted by name: an item knows the place of its bytes. So threads and forked processes
share nothing, and a million members cost a million rows of numbers. Symbolic links and devices are passed
over; hard links are refused, since they are images like any other.
"""

import bz2
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from PIL import Image

from data.formats import open_image
from data.limits import refuse_large_image
from data.sources.base import SourceError, is_image

Member = tuple[str, *tuple[int, ...]]  # a name, then the numbers that say where its bytes are
_LARGEST_HEADER = 1 << 20  # bytes of a long name, or of other facts before a member
_BLOCK = 512  # of a tar
_WINDOWS = 0  # of a zip's member: the system that wrote it
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
# RecursionError: of headers before headers before headers.
_DAMAGED_TAR = (tarfile.TarError, OSError, ValueError, EOFError, MemoryError, RecursionError)
# What zipfile raises on damage; NotImplementedError of versions and packings that it does not know.
_DAMAGED_ZIP = (zipfile.BadZipFile, NotImplementedError, struct.error, *_DAMAGED_TAR[1:])


def open_span(file: str, offset: int, size: int) -> Image.Image:
    """The image in `size` bytes of a file. Raises OSError when they are too many or not there."""
    refuse_large_image(size)
    with open(file, "rb") as stream:
        stream.seek(offset)
        payload = stream.read(size)
    if len(payload) != size:
        raise OSError("the archive ends before the image does")
    return open_image(io.BytesIO(payload))


class BoundedHeader(tarfile.TarInfo):
    """A member whose name and other facts are of a sane length: tarfile reads them whole."""

    _FACTS = (
        *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
        *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    )

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in self._FACTS and self.size > _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]


def tar_members(
    file: str | Path, start: int = 0, stop: int | None = None, shown: str = ""
) -> Iterator[tuple[str, int, int]]:
    """(name, offset, size) of the regular files of a plain tar that lies between two bytes of `file`.

    Raises SourceError, naming `shown`, when it is no tar, is damaged, has images as hard links, or lacks its
    end: what is truncated between two members would otherwise seem whole.
    """
    shown = shown or str(file)
    with open(file, "rb") as stream:
        stream.seek(start)
        try:
            with tarfile.open(
                fileobj=stream, mode="r:", tarinfo=BoundedHeader, encoding="utf-8", errors="surrogateescape"
            ) as tar:
                reached = -1
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                    if tar.offset <= reached or (stop is not None and tar.offset > stop):
                        raise tarfile.ReadError("members overlap")
                    reached = tar.offset
                    if member.islnk() and is_image(member.name.rpartition("/")[2]):
                        raise SourceError(
                            f"{shown}: {member.name} is a hard link; archive with tar's --hard-dereference"
                        )
                    if member.isreg() and not member.issparse():
                        yield member.name, member.offset_data, member.size
                stream.seek(tar.offset)
            if stream.read(_BLOCK) != bytes(_BLOCK):
                raise tarfile.ReadError("its end is missing")
        except SourceError:
            raise
        except _DAMAGED_TAR as error:
            raise SourceError(
                f"{shown} is truncated, damaged or no tar archive ({error}); get it again"
            ) from error


def zip_members(file: Path) -> Iterator[Member]:
    """(name, offset of its header, packed size, size, method, CRC) of the regular files."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except _DAMAGED_ZIP as error:
        raise SourceError(
            f"{file} is truncated, damaged or no zip archive ({error}); get it again"
        ) from error
    for member in members:
        if member.is_dir() or stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
            continue
        name = _zip_name(member)
        if is_image(name.rpartition("/")[2]):
            if member.flag_bits & 1:
                raise SourceError(f"{file} is encrypted; give one without a password")
            if member.compress_type not in _METHODS:
                raise SourceError(
                    f"{file}: {name} is packed by method {member.compress_type}; use deflate or store"
                )
            packing = (member.compress_size, member.file_size, member.compress_type, member.CRC)
            yield name, member.header_offset, *packing


def _zip_name(member: zipfile.ZipInfo) -> str:
    """Writers that do not mark UTF-8 as such mostly write it all the same; some on Windows write '\\'."""
    name = member.filename
    if not member.flag_bits & 0x800:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/") if member.create_system == _WINDOWS else name


def open_packed(file: str, offset: int, packed: int, size: int, method: int, crc: int) -> Image.Image:
    """The image of a zip's member. Raises OSError when it is too large or damaged."""
    refuse_large_image(max(packed, size))
    with open(file, "rb") as stream:
        stream.seek(offset)
        header = stream.read(30)
        if len(header) < 30 or not header.startswith(b"PK\3\4"):
            raise OSError("the archive has no member where its directory says")
        stream.seek(sum(struct.unpack("<HH", header[26:])), io.SEEK_CUR)
        payload = stream.read(packed)
    try:
        payload = _unpack_member(payload, method, size)
    except (zlib.error, ValueError) as error:
        raise OSError(f"damaged in the archive ({error})") from error
    if len(payload) != size or zlib.crc32(payload) != crc:
        raise OSError("damaged in the archive (its checksum differs)")
    return open_image(io.BytesIO(payload))


def _unpack_member(payload: bytes, method: int, size: int) -> bytes:
    """At most one byte more than it says, whatever it would unpack to."""
    if method == zipfile.ZIP_DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(payload, size + 1)
    if method == zipfile.ZIP_BZIP2:
        return bz2.BZ2Decompressor().decompress(payload, size + 1)
    return payload
