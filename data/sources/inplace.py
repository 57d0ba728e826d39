"""WebDataset shards that are there already: only indexed, and read where they are."""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from PIL import Image

from data.folders import Folder, LocalFolder, Place, as_folder
from data.redact import has_secrets
from data.shards import DATASET_FILE, Dataset
from data.sources.base import IMAGE_SUFFIXES, Listing, Opener, Source, SourceError

_SPLIT = re.compile(r"(?P<train>train)|(?P<test>test|val)", re.IGNORECASE)
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
        with self.folder.open(self.shard) as file:
            file.seek(self.offset)
            return file.read(self.size)

    def __call__(self) -> Image.Image:
        return Image.open(io.BytesIO(self.read()))


def shards_source(place: Place) -> Source:
    """WebDataset tars in a folder: an image and its label (`.cls`, or `label` in `.json`) under one key.

    The split is the first of train, test, val in a shard's name; without one it is drawn. Class names are
    those of a `dataset.json` beside the shards, else the labels. Raises SourceError for a damaged tar.
    """
    if has_secrets(str(place)):
        raise SourceError(
            "shards are used in place and their address kept: give the secrets in the environment"
        )
    folder = as_folder(place)
    shards = sorted(name for name in folder.names() if name.endswith(".tar"))
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(f"{shard}\0{folder.size(shard)}\0{folder.changed(shard)}\n".encode())
    return Source(str(place), digest.hexdigest(), lambda: _index(folder, shards), shards_at=_address(folder))


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
        for key, label, member, suffix in _members(folder, shard):
            names.append(key)
            labels.append(label)
            places.append((number, member.offset_data, member.size))
            suffixes.append(suffix)
            splits.append(_split_of(shard))
    at = np.array(places, dtype=np.int64).reshape(-1, 3)
    kinds = pa.array(suffixes, pa.string()).dictionary_encode()

    def opener(index: int) -> Opener:
        shard, offset, size = at[index].tolist()
        return StoredImage(folder, shards[shard], offset, size, kinds[index].as_py())

    if any(splits) and not all(splits):
        splits = [None] * len(splits)
    return Listing(names, _class_names(folder, labels), splits, opener)


def _members(folder: Folder, shard: str) -> Iterator[tuple[str, str | None, tarfile.TarInfo, str]]:
    """Key, label, tar member and suffix of each image of a shard; members of one key are neighbours."""
    key, label, image, suffix = "", None, None, ""
    # Of a remote file every seek would be a request, so there it is read from end to end.
    mode = "r:" if isinstance(folder, LocalFolder) else "r|"
    try:
        with folder.open(shard) as file, tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
            for member in tar:
                if not member.isfile():
                    continue
                base, extension = _split(member.name)
                if base != key:
                    if image is not None:
                        yield key, label, image, suffix
                    key, label, image, suffix = base, None, None, ""
                extension = extension.lower()
                if f".{extension}" in IMAGE_SUFFIXES:
                    image, suffix = member, extension
                elif extension in ("cls", "json") and member.size <= _LARGEST_LABEL:
                    content = tar.extractfile(member)
                    assert content is not None
                    label = _label(extension, content.read(), shard, base) or label
    except (tarfile.TarError, OSError, EOFError) as error:
        raise SourceError(f"{folder.shown}/{shard} is not a sound tar: {error}") from error
    if image is not None:
        yield key, label, image, suffix


def _split(name: str) -> tuple[str, str]:
    """'a.b/c.seg.png' as 'a.b/c' and 'seg.png', as WebDataset takes keys."""
    folder, slash, file = name.rpartition("/")
    base, _, extension = file.partition(".")
    return f"{folder}{slash}{base}", extension


def _label(extension: str, content: bytes, shard: str, key: str) -> str | None:
    try:
        if extension == "cls":
            return content.decode().strip() or None
        found = json.loads(content)
        value = found.get("label") if isinstance(found, dict) else None
        return None if value is None else str(value)
    except (UnicodeDecodeError, ValueError) as error:
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
        classes = Dataset.read(folder).classes
        return [None if label is None else classes[int(label)] for label in labels]
    width = max(map(len, given))
    return [None if label is None else label.zfill(width) for label in labels]


def _split_of(shard: str) -> str | None:
    match = _SPLIT.search(shard)
    return None if match is None else "train" if match["train"] else "test"
