"""MNIST, Fashion-MNIST and others in their format: idx files, plain or .gz."""

import gzip
import hashlib
import math
import zlib
from functools import partial
from pathlib import Path
from typing import IO, cast

import numpy as np
from PIL import Image

from data.limits import refuse_bomb
from data.sources.base import Listing, Opener, Source, SourceError, listed, listing_digest

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]

_DIGITS = tuple("0123456789")
_FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_NAMED = {  # where torchvision or a user puts it, its classes, its source
    "mnist": (("MNIST", "mnist"), _DIGITS, "https://ossci-datasets.s3.amazonaws.com/mnist/"),
    "fashion-mnist": (
        ("FashionMNIST", "fashion-mnist"),
        _FASHION,
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
}
_STEMS = {"train": "train", "test": "t10k"}
_KINDS = {"images": 3, "labels": 1}  # with their numbers of dimensions
_DAMAGED = (OSError, EOFError, zlib.error, MemoryError)


def mnist_source(name: str, root: Path) -> Source:
    """'mnist' or 'fashion-mnist' in `root`, in a folder of that name or torchvision's (MNIST/raw).

    28x28 grey, 60,000 + 10,000 images of 10 classes. MNIST (LeCun, Cortes & Burges 1998,
    http://yann.lecun.com/exdb/mnist/): CC BY-SA 3.0. Fashion-MNIST (Xiao, Rasul & Vollgraf 2017,
    https://github.com/zalandoresearch/fashion-mnist): MIT. The .gz files are checked against the published
    MD5 sums that torchvision lists. Raises SourceError when files are missing or, when loaded, differ.
    """
    places, classes, url = _NAMED[name]
    folder = next((root / place for place in places if has_idx(root / place)), None)
    if folder is None or len(_files(folder)) < len(_STEMS) * len(_KINDS):
        raise SourceError(
            f"{(folder or root / name).resolve()} lacks train-images-idx3-ubyte.gz, "
            "train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz or t10k-labels-idx1-ubyte.gz; "
            f"run python -m data.get {name} --root {root}, or download the four from {url}, "
            f"set data.root to their folder's place, or give a folder of images as ./{name}"
        )
    return _source(name, folder, classes, published=name)


def idx_source(folder: str | Path) -> Source:
    """Images and labels in a folder's train-* and t10k-* idx files, or in its raw/; one alone is no split.

    Classes are the numbers as text; Fashion-MNIST's names where the folder, or the one above, is called so.
    Raises SourceError when there are none; and, when items are asked for, when one is damaged or they differ
    in length.
    """
    place = Path(folder).expanduser()
    if not has_idx(place):
        raise SourceError(
            f"{folder} holds no idx files; give a folder with train-images-idx3-ubyte and "
            "train-labels-idx1-ubyte (or .gz)"
        )
    fashion = any("fashion" in part.lower() for part in place.absolute().parts[-2:])
    return _source(str(folder), place, _FASHION if fashion else ())


def has_idx(folder: Path) -> bool:
    return bool(_files(folder))


def _files(folder: Path) -> dict[tuple[str, str], Path]:
    """The file of each (split, kind) that is there; plain ones rather than packed ones."""
    found: dict[tuple[str, str], Path] = {}
    for split, stem in _STEMS.items():
        for kind, num_dims in _KINDS.items():
            names = [f"{stem}-{kind}{mark}idx{num_dims}-ubyte" for mark in "-."]  # both are about
            places = [
                place / (name + gz)
                for gz in ("", ".gz")
                for place in (folder, folder / "raw")
                for name in names
            ]
            if file := next((place for place in places if place.is_file()), None):
                found[split, kind] = file
    return found


def _source(name: str, folder: Path, classes: tuple[str, ...], published: str | None = None) -> Source:
    files = _files(folder)
    identity = listing_digest(listed(path.name, path) for path in files.values())
    load = partial(_items, folder, files, classes, published)
    return Source(name, identity, load, classes if published else ())


def _items(
    folder: Path, files: dict[tuple[str, str], Path], classes: tuple[str, ...], published: str | None
) -> Listing:
    splits = [split for split in _STEMS if (split, "images") in files or (split, "labels") in files]
    images, labels = [], []
    for split in splits:
        for kind in _KINDS:
            if (split, kind) not in files:
                raise SourceError(f"{folder} lacks {_STEMS[split]}-{kind}-idx{_KINDS[kind]}-ubyte (or .gz)")
            if published:
                _verify(files[split, kind], published)
        images.append(_read(files[split, "images"], _KINDS["images"]))
        labels.append(_read(files[split, "labels"], _KINDS["labels"]))
        if len(images[-1]) != len(labels[-1]):
            raise SourceError(
                f"{files[split, 'images']} has {len(images[-1])} images and {files[split, 'labels']} "
                f"{len(labels[-1])} labels; get both again"
            )
    numbers = np.concatenate(labels)
    most = int(numbers.max(initial=0))
    classes = classes or tuple(f"{number:0{len(str(most))}d}" for number in range(most + 1))
    if most >= len(classes):
        raise SourceError(
            f"{folder} has a label {most}; {len(classes)} classes are known: {', '.join(classes)}"
        )
    counts = dict(zip(splits, map(len, labels), strict=True))
    return Listing(
        [f"{split}/{index:05d}" for split, count in counts.items() for index in range(count)],
        [classes[number] for number in numbers],
        [split if len(splits) > 1 else None for split, count in counts.items() for _ in range(count)],
        partial(_opener, images),
    )


def _read(path: Path, num_dims: int) -> Pixels:
    """The bytes of an idx file in their shape. Raises SourceError when it is no such file, or cut short."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _parse(path, cast(IO[bytes], file), num_dims)
    except _DAMAGED as error:
        raise SourceError(f"{path} is truncated or damaged ({error}); get it again") from error


def _parse(path: Path, file: IO[bytes], num_dims: int) -> Pixels:
    expected = bytes((0, 0, 8, num_dims))  # 8: unsigned bytes
    magic = file.read(4)
    if magic != expected:
        raise SourceError(
            f"{path} begins with {magic.hex() or 'nothing'}, not {expected.hex()}: no idx file of its kind"
        )
    shape = tuple(int.from_bytes(file.read(4), "big") for _ in range(num_dims))
    if not math.prod(shape):  # also where the file ends before
        raise SourceError(f"{path} says it holds {shape}; get it again")
    size = math.prod(shape)
    content = bytearray()
    packed = path.stat().st_size
    while len(content) <= size and (chunk := file.read(1 << 20)):
        content += chunk
        refuse_bomb(len(content), packed)
    if len(content) != size:
        raise SourceError(
            f"{path} says it holds {shape}, so {size:,} bytes and no other number; get it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _verify(path: Path, published: str) -> None:
    """Raises SourceError where a .gz file is not the published one."""
    if path.suffix != ".gz":
        return
    from torchvision.datasets import MNIST, FashionMNIST

    sums = dict((MNIST if published == "mnist" else FashionMNIST).resources)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
    if found != sums.get(path.name):
        raise SourceError(
            f"{path} differs from {_NAMED[published][2]}{path.name} (MD5 {found}); download it again"
        )


def _opener(images: list[Pixels], index: int) -> Opener:
    for pixels in images:
        if index < len(pixels):
            return partial(Image.fromarray, pixels[index])
        index -= len(pixels)
    raise IndexError(index)
