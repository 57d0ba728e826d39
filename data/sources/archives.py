"""Archives of images: .zip and .tar are read in place, a compressed .tar is unpacked once to a scratch file.

The tree inside follows a folder's rules (`data.sources.base`). Folders that wrap all of it, as
`tar czf x.tgz x` makes, are looked through as long as images lie three levels deep (top/class/image,
top/train/class/image): class/image alone keeps its class, and train/class/image its split. Hidden files and
names with `..` are passed over, a leading `/` is dropped, and of two members of one name the last counts.
"""

import bz2
import errno
import gzip
import lzma
import tempfile
import zlib
from array import array
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from PIL import Image

from data.limits import refuse_bomb
from data.sources.base import (
    IMAGE_SUFFIXES,
    Listing,
    Opener,
    Source,
    SourceError,
    is_image,
    is_train,
    listed,
    listing_digest,
    refuse_test_alone,
    split_folders,
    tree_items,
)
from data.sources.members import Member, open_packed, open_span, tar_members, zip_members
from data.sources.scratch import write_scratch

_UNPACKERS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys((".tar.gz", ".tgz"), gzip.open),
    **dict.fromkeys((".tar.bz2", ".tbz2"), bz2.open),
    **dict.fromkeys((".tar.xz", ".txz"), lzma.open),
}
ARCHIVE_SUFFIXES = (".zip", ".tar", *_UNPACKERS)
_DAMAGED_STREAM = (OSError, EOFError, zlib.error, lzma.LZMAError, MemoryError)
_CHUNK = 1 << 20


def is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def archive_source(path: str | Path, scratch: str | None = None) -> Source:
    """Images in an archive. scratch: where to unpack a compressed tar; None is the temporary folder (TMPDIR).

    Other processes that open items must see that folder. Raises SourceError when there is no such file; and,
    when items are asked for, when it is truncated, damaged, encrypted or without images.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise SourceError(f"{path} does not exist or is no file; give an archive of images")
    if not is_archive(file.name):
        raise SourceError(
            f"{path} is no kind of file known here; give a folder, a .parquet file or an archive "
            f"({', '.join(ARCHIVE_SUFFIXES)})"
        )
    identity = listing_digest([listed(file.name, file)])
    return Source(str(path), identity, partial(_items, file.absolute(), scratch))


def _items(file: Path, scratch: str | None) -> Listing:
    zipped = file.name.lower().endswith(".zip")
    holder = str(file) if zipped else _plain_tar(file, scratch)
    paths, places = _sorted(zip_members(file) if zipped else tar_members(holder, shown=str(file)))
    if not paths:
        raise SourceError(f"{file} holds no image file; it needs {', '.join(sorted(IMAGE_SUFFIXES))} files")
    opener = partial(_opener, open_packed if zipped else open_span, holder, places)
    try:
        tree = pa.array(_unwrapped(paths), pa.large_binary())
        splits = split_folders(tree)
        refuse_test_alone(tree, splits)
        return tree_items(tree, splits, opener)
    except SourceError as error:
        raise SourceError(f"{file} {error}") from error


def _sorted(members: Iterator[Member]) -> tuple[list[bytes], np.ndarray]:
    """Tree paths of the images in sorted order, each once, and their places as rows of int64."""
    paths, numbers = [], array("q")
    for name, *place in members:
        if path := _tree_path(name):
            paths.append(path)
            numbers.extend(place)
    order = sorted(range(len(paths)), key=paths.__getitem__)
    last = [row for row, after in pairwise([*order, -1]) if after < 0 or paths[row] != paths[after]]
    places = np.frombuffer(numbers, dtype=np.int64).reshape(len(paths), -1) if paths else np.empty((0, 0))
    return [paths[row] for row in last], places[last]


def _tree_path(name: str) -> bytes | None:
    """Where a member belongs in the tree; None for what is no image."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or any(part.startswith(".") for part in parts) or not is_image(parts[-1]):
        return None
    return "/".join(parts).encode("utf-8", "surrogateescape")


def _unwrapped(paths: list[bytes]) -> list[bytes]:
    """Without the folders that wrap everything, by the rule above."""
    while True:
        top = paths[0].partition(b"/")[0] + b"/"
        wrapped = all(path.startswith(top) for path in paths) and max(path.count(b"/") for path in paths) > 1
        if not wrapped or is_train(top[:-1]):
            return paths
        paths = [path.removeprefix(top) for path in paths]


def _opener(open_at: Callable[..., Image.Image], holder: str, places: np.ndarray, index: int) -> Opener:
    return partial(open_at, holder, *places[index].tolist())


def _plain_tar(file: Path, scratch: str | None) -> str:
    unpackers = [unpack for suffix, unpack in _UNPACKERS.items() if file.name.lower().endswith(suffix)]
    return _unpacked(*listed(str(file), file), unpackers[0], scratch) if unpackers else str(file)


@cache
def _unpacked(file: str, size: int, mtime: int, unpack: Callable[..., Any], scratch: str | None) -> str:
    """The path of the plain tar. size, mtime: only tell whether the file is the one unpacked before."""

    def fill(out: IO[bytes]) -> None:
        with unpack(file, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                refuse_bomb(out.tell() + len(chunk), size)
                out.write(chunk)

    try:
        return write_scratch(fill, scratch)
    except _DAMAGED_STREAM as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            place = scratch or tempfile.gettempdir()
            raise SourceError(
                f"{file} does not fit into {place}; set TMPDIR to a folder with more room"
            ) from error
        raise SourceError(f"{file} is truncated or damaged ({error}); get it again") from error
