"""WebDataset shards that are there already: only indexed, and read where they are."""

import io
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
from PIL import Image

from data.folders import Folder, LocalFolder, Place, as_folder
from data.formats import open_image
from data.limits import refuse_large_image
from data.redact import has_secrets
from data.shards import DATASET_FILE, Dataset
from data.sources.base import IMAGE_SUFFIXES, Listing, Opener, Source, SourceError, listing_digest, printable
from data.sources.members import tar_members

_SPLIT = re.compile(
    r"(?<![a-z])(?:(?P<train>train(?:ing)?)|(?P<test>test(?:ing)?|val(?:id(?:ation)?)?))(?![a-z])",
    re.IGNORECASE,
)
_LARGEST_LABEL = 1 << 20  # bytes


@dataclass(frozen=True)
class StoredImage:
    """An image's bytes within a shard, opened when called."""

    folder: Folder
    shard: str
    offset: int
    size: int
    suffix: str

    def read(self) -> bytes:
        refuse_large_image(self.size)
        return self.folder.read_part(self.shard, self.offset, self.size)

    def __call__(self) -> Image.Image:
        return open_image(io.BytesIO(self.read()))


def shards_source(place: Place) -> Source:
    """WebDataset tars in a folder: an image and its label (`.cls`, or `label` in `.json`) under one key.

    The split is the first word train, test or val in shards' names; without one it is drawn. Class names are
    those of a `dataset.json` beside the shards, else the labels. Raises SourceError for a damaged tar.
    """
    if has_secrets(str(place)):
        raise SourceError(
            "shards are used in place and their address kept: give the secrets in the environment"
        )
    folder = as_folder(place)
    shards = sorted(name for name in folder.names() if name.endswith(".tar"))
    identity = listing_digest((shard, folder.size(shard) or 0, folder.changed(shard)) for shard in shards)
    return Source(str(place), identity, lambda: _index(folder, shards), shards_at=_address(folder))


def _address(folder: Folder) -> str:
    """Under which other processes find it, whatever their working directory."""
    return str(folder.path.absolute()) if isinstance(folder, LocalFolder) else folder.shown


def _index(folder: Folder, shards: list[str]) -> Listing:
    names: list[str] = []
    labels: list[str | None] = []
    places: list[tuple[int, int, int]] = []
    suffixes: list[str] = []
    splits: list[str | None] = []
    for number, shard in enumerate(shards):
        for key, label, offset, size, suffix in _members(folder, shard):
            names.append(printable(key))
            labels.append(label)
            places.append((number, offset, size))
            suffixes.append(suffix)
            splits.append(_split_of(shard))
    at = np.array(places, dtype=np.int64).reshape(-1, 3)
    kinds = pa.array(suffixes, pa.string()).dictionary_encode()

    def opener(index: int) -> Opener:
        shard, offset, size = at[index].tolist()
        return StoredImage(folder, shards[shard], offset, size, kinds[index].as_py())

    if not names:
        raise SourceError(f"{folder.shown} has .tar files without any image")
    if any(splits) and not all(splits):
        odd = next(shard for shard in shards if _split_of(shard) is None)
        raise SourceError(
            f"{folder.shown} has shards named train, test or val, and {odd}: name its split too"
        )
    return Listing(names, _class_names(folder, labels), splits, opener)


def _members(folder: Folder, shard: str) -> Iterator[tuple[str, str | None, int, int, str]]:
    """Key, label, offset, size and suffix of each image of a shard; members of one key are neighbours."""
    with _local(folder, shard) as file, file.open("rb") as stream:
        listed = (
            (*_split(name), offset, size)
            for name, offset, size in tar_members(file, shown=f"{folder.shown}/{shard}")
        )
        for key, members in groupby(listed, key=lambda member: member[0]):
            label, image = None, None
            for _, extension, offset, size in members:
                if f".{extension}" in IMAGE_SUFFIXES:
                    image = (offset, size, extension)
                elif extension in ("cls", "json") and size <= _LARGEST_LABEL:
                    stream.seek(offset)
                    label = _label(extension, stream.read(size), shard, key) or label
            if image is not None:
                yield key, label, *image


@contextmanager
def _local(folder: Folder, shard: str) -> Iterator[Path]:
    """A shard as a local file: of a remote one every seek would be a request."""
    if isinstance(folder, LocalFolder):
        yield folder.path / shard
        return
    with TemporaryDirectory() as scratch:
        copy = Path(scratch) / "shard.tar"
        with folder.open(shard) as source, copy.open("wb") as out:
            shutil.copyfileobj(source, out, 8 << 20)
        yield copy


def _split(name: str) -> tuple[str, str]:
    """'a.b/c.seg.png' as 'a.b/c' and 'seg.png', as WebDataset takes keys."""
    folder, slash, file = name.rpartition("/")
    base, _, extension = file.partition(".")
    return f"{folder}{slash}{base}", extension.lower()


def _label(extension: str, content: bytes, shard: str, key: str) -> str | None:
    try:
        if extension == "cls":
            return printable(content.decode().strip()) or None
        found = json.loads(content)
        value = found.get("label") if isinstance(found, dict) else None
        return None if value is None else printable(str(value))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise SourceError(f"{shard}: the label of {key} cannot be read: {error}") from error


def _class_names(folder: Folder, labels: list[str | None]) -> list[str | None]:
    """Numbers as names: those of `dataset.json`, or filled with zeros so that they sort as numbers."""
    given = {label for label in labels if label is not None}
    if "-1" in given:  # this project's word for none
        labels = [None if label == "-1" else label for label in labels]
        given.discard("-1")
    if not given or not all(label.isdigit() for label in given):
        return labels
    if folder.size(DATASET_FILE) is not None:
        return _named(folder, labels)
    width = max(map(len, given))
    return [None if label is None else label.zfill(width) for label in labels]


def _named(folder: Folder, labels: list[str | None]) -> list[str | None]:
    """By the `dataset.json` beside the shards. Raises SourceError when it has no name for a label."""
    try:
        classes = [printable(name) for name in Dataset.read(folder).classes]
    except ValueError as error:
        raise SourceError(f"{error}; move it away to use the labels themselves as names") from error
    unknown = next((label for label in labels if label is not None and int(label) >= len(classes)), None)
    if unknown is not None:
        raise SourceError(
            f"{folder.shown}/{DATASET_FILE} names {len(classes)} classes, a shard has label {unknown}"
        )
    return [None if label is None else classes[int(label)] for label in labels]


def _split_of(shard: str) -> str | None:
    match = _SPLIT.search(shard)
    return None if match is None else "train" if match["train"] else "test"
