"""Collections of images: what they list, and folders of the user's own (by name: `data.sources.named`).

A source lists its items without reading a pixel, so that its identity is cheap: the digest of the sorted
(relative path, size, mtime) list. Contents are hashed later, while they are prepared.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, overload

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from data.formats import open_image
from data.limits import LARGEST_NAME
from data.visible import visible

Opener = Callable[[], Image.Image]

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2", ".ppm", ".pgm"}
)
_SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "val", "valid", "validation"), "test"),
}


class SourceError(ValueError):
    """A collection that cannot be used; the text says what was found and what is needed."""


@dataclass(frozen=True)
class Item:
    """One image that has not been opened. `label` is a class name, or None; `split` train, test or None.

    `open` and all else here can be pickled: other processes decode it.
    """

    name: str
    label: str | None
    split: str | None
    open: Opener


class Listing(Sequence[Item]):
    """The items of a large collection as columns: some 60 bytes each, made into an `Item` when asked for.

    names: what reports call an item; labels, splits: strings or None; `opener`: `open` by an item's index.
    """

    def __init__(
        self,
        names: Iterable[str],
        labels: Iterable[str | None],
        splits: Iterable[str | None],
        opener: Callable[[int], Opener],
    ) -> None:
        self.names = pa.array(names, pa.large_string())
        self.labels = pa.array(labels, pa.string()).dictionary_encode()
        refuse_long(self.labels.dictionary)
        self.splits = pa.array(splits, pa.string()).dictionary_encode()
        self.opener = opener

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        number = range(len(self))[index]
        name, label, split = (own[number].as_py() for own in (self.names, self.labels, self.splits))
        return Item(name, label, split, self.opener(number))


@dataclass(frozen=True)
class Source:
    """A collection of images. `identity` changes when a file is added, removed or written.

    `load` lists the items when they are first asked for; `known_classes` names classes beyond theirs;
    `shards_at` is where shards lie that are used in place; `opened_by` opens the same collection anew.
    """

    name: str
    identity: str
    load: Callable[[], Sequence[Item]]
    known_classes: tuple[str, ...] = ()
    shards_at: str = ""
    opened_by: "Callable[[], Source] | None" = None

    def reopen(self) -> "Source":
        """The collection as it is by now; this one where nobody said how it was opened."""
        return self if self.opened_by is None else self.opened_by()

    @cached_property
    def items(self) -> Sequence[Item]:
        return self.load()

    @cached_property
    def labels(self) -> list[str | None]:
        """Each item's class name, without making the items."""
        return column(self.items, "label")

    @cached_property
    def splits(self) -> list[str | None]:
        return column(self.items, "split")

    @property
    def classes(self) -> list[str]:
        """Class names in sorted order; a label's index is its place here."""
        return sorted({label for label in self.labels if label is not None} | {*self.known_classes})


def column(items: Sequence[Item], name: Literal["label", "split"]) -> list[str | None]:
    """One field of every item; strings are shared, not copied."""
    if not isinstance(items, Listing):
        return [getattr(item, name) for item in items]
    encoded = items.labels if name == "label" else items.splits
    values = [*encoded.dictionary.to_pylist(), None]
    return [values[-1 if index is None else index] for index in encoded.indices.to_pylist()]


def folder_source(folder: str | Path) -> Source:
    """A folder of images: `class/*.png`, `train/class/*.png` with `test/` or `val/`, or images alone.

    Images directly in the folder, or in its `train` and `test`, have no label (seed collections). Hidden
    files are passed over. Raises SourceError when the folder does not exist or holds no image file.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise SourceError(f"{folder} does not exist or is no folder; give a folder of images")
    digest, paths = hashlib.sha256(), []
    for path, size, mtime in _walk(root, "", {root.resolve()}):
        digest.update(b"%s\0%d\0%d\n" % (path, size, mtime))
        paths.append(path)
    if not paths:
        raise SourceError(
            f"{folder} holds no image file; give a folder with {', '.join(sorted(IMAGE_SUFFIXES))} files"
        )
    raw = pa.array(paths, pa.large_binary())
    splits = split_folders(raw)
    refuse_test_alone(raw, splits)
    opener = partial(_opener, root, raw)
    return Source(str(folder), digest.hexdigest(), lambda: tree_items(raw, splits, opener))


def tree_items(paths: pa.Array, splits: Mapping[str, str], opener: Callable[[int], Opener]) -> Listing:
    """Items of a tree of files by their relative paths (bytes): folders say class and split."""
    names, labels, own_splits = [], [], []
    for path in paths:
        name = printable(path.as_py())
        first, *inner = name.split("/")
        split = splits.get(first) if inner else None
        folders = inner[:-1] if split else [first, *inner][:-1]
        names.append(name)
        labels.append(folders[0] if folders else None)
        own_splits.append(split)
    return Listing(names, labels, own_splits, opener)


def is_image(name: str) -> bool:
    """Whether a file counts as an image, by its name; hidden ones do not."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_train(folder: bytes) -> bool:
    """Whether a folder's name is one for images to train with."""
    return _SPLIT_FOLDERS.get(printable(folder).lower()) == "train"


def is_shards(names: Iterable[str]) -> bool:
    """Whether a folder's files are WebDataset shards: tars, and no image beside them."""
    names = list(names)
    return any(name.endswith(".tar") for name in names) and not any(map(is_image, names))


def listing_digest(listed: Iterable[tuple[str, int, int]]) -> str:
    """Of (relative path, size, mtime) triples in their order."""
    digest = hashlib.sha256()
    for relative, size, mtime in listed:
        digest.update(f"{relative}\0{size}\0{mtime}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def listed(name: str, file: Path) -> tuple[str, int, int]:
    """A file under a name as `listing_digest` takes it."""
    status = file.stat()
    return name, status.st_size, status.st_mtime_ns


def _walk(root: Path, below: str, seen: set[Path]) -> Iterator[tuple[bytes, int, int]]:
    """(relative path, size, mtime) of every image file, sorted; links are followed, loops of them only once.

    One folder's entries are in memory at a time: those of a folder come where its name with '/' belongs.
    """
    with os.scandir(root / below) as entries:
        named = sorted(
            (entry.name + "/" * entry.is_dir(), entry) for entry in entries if entry.name[0] != "."
        )
    for name, entry in named:
        if not name.endswith("/"):
            if is_image(name):
                status = entry.stat(follow_symlinks=os.path.exists(entry))
                yield os.fsencode(below + name), status.st_size, status.st_mtime_ns
        elif (target := Path(entry.path).resolve()) not in seen:
            seen.add(target)
            yield from _walk(root, below + name, seen)


def split_folders(paths: pa.Array) -> dict[str, str]:
    """Top folders are splits only when all of them are, and `train` is there with another or with classes.

    Raises SourceError where train and test lie beside something else, or two folders of classes mean one.
    """
    tops, deep_tops = set(), set()
    for path in paths:
        top, *inner = path.as_py().split(b"/", 2)
        if inner:
            tops.add(printable(top))
        if len(inner) > 1:
            deep_tops.add(printable(top))
    splits = {top: _SPLIT_FOLDERS[top.lower()] for top in tops if top.lower() in _SPLIT_FOLDERS}
    deep = bool(deep_tops & splits.keys())
    if "train" not in splits.values() or not (deep or (len(tops) > 1 and splits.keys() == tops)):
        return {}
    if splits.keys() != tops and "test" not in splits.values():
        return {}  # a class of trains beside other classes
    if splits.keys() != tops:
        others = ", ".join(sorted(tops - splits.keys())[:3])
        raise SourceError(
            f"has {' and '.join(sorted(splits))} beside {others}; keep only train and test (or val)"
        )
    same = [top for top in sorted(splits) if list(splits.values()).count(splits[top]) > 1]
    if deep and same:
        raise SourceError(f"has {' and '.join(same)}, all of them {splits[same[0]]} images; keep one")
    return splits


def refuse_test_alone(paths: pa.Array, splits: Mapping[str, str]) -> None:
    """Raises SourceError where classes lie below `test` (or `val`) alone: else `test` were a class."""
    folders = {printable(path.as_py().rpartition(b"/")[0]) for path in paths}
    tops = {folder.partition("/")[0] for folder in folders if folder}
    if (
        not splits
        and any("/" in folder for folder in folders)
        and {_SPLIT_FOLDERS.get(top.lower()) for top in tops} == {"test"}
    ):
        found = " and ".join(sorted(tops))
        raise SourceError(f"has {found} but no train; add it, or give the folder that holds the classes")


def _opener(root: Path, paths: pa.Array, index: int) -> Opener:
    return partial(_open_file, root / os.fsdecode(paths[index].as_py()))


def _open_file(path: Path) -> Image.Image:
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(2, "not a regular file")
    return open_image(path)


def refuse_long(texts: pa.Array) -> None:
    """Raises SourceError for a class name that is none."""
    if (longest := pc.max(pc.binary_length(texts)).as_py() or 0) > LARGEST_NAME:
        raise SourceError(f"a class has a name of {longest:,} bytes; {LARGEST_NAME:,} are allowed")


def printable(name: bytes | str) -> str:
    """A name as text that any file format and any screen takes.

    Bytes that are no UTF-8, and signs that would move a terminal's cursor or turn its text, show as \\x...
    """
    raw = _raw(name) if isinstance(name, str) else name
    return visible(raw.decode("utf-8", "backslashreplace"))


def _raw(name: str) -> bytes:
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a pair, which JSON can hold
        return name.encode("utf-8", "backslashreplace")
