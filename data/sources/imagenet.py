"""ImageNet-1k as it is published, read where it lies (Russakovsky et al. 2015); classes are WordNet ids."""

import os
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from data.sources.base import (
    Item,
    Listing,
    Opener,
    Source,
    SourceError,
    folder_source,
    is_image,
    listed,
    listing_digest,
    printable,
)
from data.sources.mat import read_structs
from data.sources.members import BoundedHeader, open_span, tar_members

_TRAIN, _VAL, _DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12"
_META, _TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
_NUM_CLASSES = 1000  # the lowest ids; higher ones are groups of them
_LARGEST_META = 64 << 20  # bytes of a file of the devkit
_DAMAGED = (
    *(tarfile.TarError, OSError, EOFError, zlib.error, struct.error),
    *(LookupError, ValueError, TypeError, ArithmeticError, MemoryError, RecursionError),
)


@dataclass(frozen=True)
class _Part:
    """Images of one split: names, class names, and what opens the one with an index."""

    split: str
    names: Sequence[str]
    labels: Sequence[str]
    opener: Callable[[int], Opener]


def imagenet_source(root: Path) -> Source:
    """ImageNet-1k in `root`/imagenet, from https://image-net.org (account; non-commercial research terms).

    MD5 as published, not verified here (150 GB), though what is truncated is found: img_train.tar
    1d675b47d978889d74fa0da5fadfb00e, img_val.tar 29b22e2961454d5413ddabcf34fc5622, devkit_t12.tar.gz
    fa75699e90414af021442c21a62c3abf.
    """
    folder = root / "imagenet"
    if not folder.is_dir():
        raise SourceError(
            f"{folder.resolve()} does not exist; get ImageNet-1k from https://image-net.org (account, "
            "non-commercial terms) and put train/ and val/ there, a folder a class in each, or "
            f"{_TRAIN}, {_VAL} and {_DEVKIT}.tar.gz as they are, or set data.root"
        )
    return imagenet_folder(folder)


def is_imagenet(folder: Path) -> bool:
    """Whether a folder holds a published archive of ImageNet-1k, or its devkit."""
    return (folder / _TRAIN).is_file() or (folder / _VAL).is_file() or _devkit(folder) is not None


def imagenet_folder(folder: Path) -> Source:
    """train/ with a folder a class, or the archive of train; val/ likewise or flat, or the archive of val.

    A flat val/ and the archive of val get their labels from the devkit, packed or not. Raises SourceError for
    images without a label; and, when items are asked for, for a damaged archive.
    """
    folder = folder.absolute()  # other processes open the images
    train, val, devkit = _place(folder, "train", _TRAIN), _place(folder, "val", _VAL), _devkit(folder)
    numbered = val is not None and (val.is_file() or _is_flat(val))
    if not (train and train.is_file()) and not (numbered and devkit) and not (val and val.is_file()):
        return _sorted_tree(folder)
    if train is None:
        raise SourceError(f"{folder.resolve()} lacks train/ and {_TRAIN}; put one of them there")
    if numbered and devkit is None:
        raise SourceError(f"{val} says no labels; put {_DEVKIT}.tar.gz beside it")
    places = {split: path for split, path in (("train", train), ("test", val)) if path}
    trees = {split: folder_source(path) for split, path in places.items() if path.is_dir()}
    files = [path for path in places.values() if path.is_file()]
    files += _devkit_files(devkit) if devkit and numbered else []
    states = [listed(str(path.relative_to(folder)), path) for path in files]
    states += [(f"{split} {tree.identity}", 0, 0) for split, tree in trees.items()]
    return Source(
        str(folder), listing_digest(states), partial(_items, places, trees, devkit if numbered else None)
    )


def _place(folder: Path, name: str, archive: str) -> Path | None:
    """The unpacked folder rather than the archive."""
    return next((path for path in (folder / name, folder / archive) if path.exists()), None)


def _devkit(folder: Path) -> Path | None:
    return next((path for end in ("", ".tar.gz") if (path := folder / (_DEVKIT + end)).exists()), None)


def _devkit_files(devkit: Path) -> list[Path]:
    files = [devkit] if devkit.is_file() else [devkit / _META, devkit / _TRUTH]
    if missing := [file for file in files if not file.is_file()]:
        raise SourceError(f"{missing[0]} does not exist; unpack {_DEVKIT}.tar.gz again")
    return files


def _is_flat(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        kinds = {entry.is_dir() for entry in entries if entry.is_dir() or is_image(entry.name)}
    return kinds == {False}


def _sorted_tree(folder: Path) -> Source:
    """A folder a class in train/ and val/."""
    source = folder_source(folder)
    if loose := [
        item.name for item, label in zip(source.items, source.labels, strict=True) if label is None
    ]:  # as val/ and test/ are unpacked
        raise SourceError(
            f"{folder.resolve()}: {len(loose)} images lie outside a class folder ({loose[0]}, say); put "
            f"{_DEVKIT}.tar.gz there or sort val/ into a folder a class, as train/ is, and take test/ away"
        )
    return source


def _items(places: dict[str, Path], trees: dict[str, Source], devkit: Path | None) -> Listing:
    parts = []
    for split, path in places.items():
        if split == "test" and devkit:
            own = trees.get(split)
            parts.append(_numbered(path, own.items if own else None, _truth(devkit)))
        elif split in trees:
            parts.append(_tree(split, path, trees[split]))
        else:
            parts.append(_class_archives(path))
    starts = np.cumsum([0, *(len(part.names) for part in parts)])
    return Listing(
        chain.from_iterable(part.names for part in parts),
        chain.from_iterable(part.labels for part in parts),
        (part.split for part in parts for _ in part.names),
        partial(_opener, starts, [part.opener for part in parts]),
    )


def _opener(starts: np.ndarray, openers: list[Callable[[int], Opener]], index: int) -> Opener:
    part = int(np.searchsorted(starts, index, side="right")) - 1
    return openers[part](index - int(starts[part]))


def _tree(split: str, folder: Path, tree: Source) -> _Part:
    labels = [label for label in tree.labels if label is not None]
    if len(labels) < len(tree.items):
        raise SourceError(f"{folder}: {len(tree.items) - len(labels)} images lie outside a class folder")
    names = [f"{folder.name}/{item.name}" for item in tree.items]
    return _Part(split, names, labels, lambda index: tree.items[index].open)


def _class_archives(archive: Path) -> _Part:
    """The images of train: a tar that holds a tar of each class, n01440764.tar say."""
    names, labels, spans = [], [], []
    for inner, start, size in tar_members(archive):
        wnid = inner.rpartition("/")[2].removesuffix(".tar")
        if not inner.endswith(".tar"):
            raise SourceError(
                f"{archive} holds {inner}; {_TRAIN} holds a .tar of each class and nothing else"
            )
        for name, offset, length in tar_members(archive, start, start + size, shown=f"{archive} ({inner})"):
            if is_image(name.rpartition("/")[2]):
                names.append(printable(f"train/{wnid}/{name}"))
                labels.append(printable(wnid))
                spans.append((offset, length))
    return _Part("train", names, labels, partial(_span, archive, np.array(spans, dtype=np.int64)))


def _numbered(place: Path, unpacked: Sequence[Item] | None, truth: list[str]) -> _Part:
    """The images of val: the number at the end of a name is the line of its label in the devkit."""
    if unpacked is not None:
        names, opener = [item.name for item in unpacked], lambda index: unpacked[index].open
    else:
        members = [member for member in tar_members(place) if is_image(member[0].rpartition("/")[2])]
        names = [name for name, _, _ in members]
        opener = partial(_span, place, np.array([span for _, *span in members], dtype=np.int64))
    labels = []
    for name in names:
        number = re.search(r"_(\d+)\.\w+$", name)
        if not number or not 1 <= int(number[1]) <= len(truth):
            raise SourceError(
                f"{place}: {name} has no label in the devkit's {len(truth)}; images are to be called "
                "ILSVRC2012_val_00000001.JPEG and so on, as published"
            )
        labels.append(truth[int(number[1]) - 1])
    return _Part("test", [printable(f"val/{name}") for name in names], labels, opener)


def _span(archive: Path, spans: np.ndarray, index: int) -> Opener:
    return partial(open_span, str(archive), *spans[index].tolist())


def _truth(devkit: Path) -> list[str]:
    """The WordNet id of each image of val, in order."""
    try:
        meta, truth = _devkit_contents(devkit)
        synsets = read_structs(meta, "synsets", ("ILSVRC2012_ID", "WNID"))
        wnids = {number: str(wnid) for number, wnid in synsets if int(number) <= _NUM_CLASSES}
        return [wnids[int(line)] for line in truth.split()]
    except _DAMAGED as error:
        raise SourceError(f"{devkit} is damaged ({error}); get it again from image-net.org") from error


def _devkit_contents(devkit: Path) -> list[bytes]:
    if devkit.is_dir():
        return [(devkit / name).read_bytes() for name in (_META, _TRUTH)]
    with tarfile.open(devkit, "r:gz", tarinfo=BoundedHeader) as tar:
        members = [tar.getmember(f"{_DEVKIT}/{name}") for name in (_META, _TRUTH)]
        if large := [member for member in members if member.size > _LARGEST_META or not member.isreg()]:
            raise ValueError(f"{large[0].name} is no file, or one of {large[0].size:,} bytes")
        return [file.read() for member in members if (file := tar.extractfile(member))]
