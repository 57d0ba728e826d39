"""Collections of images: what they list, and folders of the user's own (by name: `data.named`).

A source lists its items without reading a pixel, so that its identity is cheap: the digest of the sorted
(relative path, size, mtime) list. Contents are hashed later, while they are prepared.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from PIL import Image

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "val", "valid", "validation"), "test"),
}


class SourceError(ValueError):
    """A collection that cannot be used; the text says what was found and what is needed."""


@dataclass(frozen=True)
class Item:
    """One image that has not been opened. `label` is a class name, or None; `split` train, test or None."""

    name: str
    label: str | None
    split: str | None
    open: Callable[[], Image.Image]


@dataclass(frozen=True)
class Source:
    """A collection of images. `identity` changes when a file is added, removed or written.

    `load` lists the items when they are first asked for; `known_classes` names classes beyond theirs.
    """

    name: str
    identity: str
    load: Callable[[], tuple[Item, ...]]
    known_classes: tuple[str, ...] = ()

    @cached_property
    def items(self) -> tuple[Item, ...]:
        return self.load()

    @property
    def classes(self) -> list[str]:
        """Class names in sorted order; a label's index is its place here."""
        return sorted({item.label for item in self.items if item.label is not None} | {*self.known_classes})


def folder_source(folder: str | Path) -> Source:
    """A folder of images: `class/*.png`, `train/class/*.png` with `test/` or `val/`, or images alone.

    Images directly in the folder, or in its `train` and `test`, have no label (seed collections). Hidden
    files are passed over. Raises SourceError when the folder does not exist or holds no image file.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise SourceError(f"{folder} does not exist or is no folder; give a folder of images")
    listed = sorted(_walk(root))
    if not listed:
        raise SourceError(
            f"{folder} holds no image file; give a folder with {', '.join(sorted(IMAGE_SUFFIXES))} files"
        )
    splits = _split_folders(listed)
    items = tuple(_folder_item(root, relative, splits) for relative, _, _ in listed)
    return Source(str(folder), listing_digest(listed), lambda: items)


def listing_digest(listed: Iterable[tuple[str, int, int]]) -> str:
    """Of (relative path, size, mtime) triples in their order."""
    digest = hashlib.sha256()
    for relative, size, mtime in listed:
        digest.update(f"{relative}\0{size}\0{mtime}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _walk(root: Path) -> list[tuple[str, int, int]]:
    """(relative path, size, mtime) of every image file; links are followed, loops of them only once."""
    found, seen = [], {root.resolve()}
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in list(subfolders):
            target = Path(folder, name).resolve()
            if target in seen:
                subfolders.remove(name)
            seen.add(target)
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                path = Path(folder, name)
                status = path.stat() if path.exists() else path.lstat()
                found.append((path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns))
    return found


def _split_folders(listed: list[tuple[str, int, int]]) -> dict[str, str]:
    """Top folders are splits only when all of them are, and `train` is there with another or with classes.

    Raises SourceError where train and test lie beside something else.
    """
    paths = [relative.split("/") for relative, _, _ in listed]
    tops = {path[0] for path in paths if len(path) > 1}
    splits = {top: _SPLIT_FOLDERS[top.lower()] for top in tops if top.lower() in _SPLIT_FOLDERS}
    deep = any(len(path) > 2 and path[0] in splits for path in paths)
    if "train" not in splits.values() or not (deep or (len(tops) > 1 and splits.keys() == tops)):
        return {}
    if splits.keys() != tops and "test" not in splits.values():
        return {}  # a class of trains beside other classes
    if splits.keys() != tops:
        others = ", ".join(sorted(tops - splits.keys())[:3])
        raise SourceError(
            f"has {' and '.join(sorted(splits))} beside {others}; keep only train and test (or val)"
        )
    return splits


def _folder_item(root: Path, relative: str, splits: dict[str, str]) -> Item:
    parts = relative.split("/")
    split = splits.get(parts[0]) if len(parts) > 1 else None
    folders = parts[1:-1] if split else parts[:-1]
    label = _printable(folders[0]) if folders else None
    return Item(_printable(relative), label, split, partial(_open_file, root / relative))


def _open_file(path: Path) -> Image.Image:
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(2, "not a regular file")
    return Image.open(path)


def _printable(name: str) -> str:
    """A file name as text that any file format takes; bytes that are no UTF-8 show as \\x..."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
