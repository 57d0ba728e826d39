"""Small images, collections and shards that tests of data preparation share."""

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.folders import as_folder
from data.part import Job
from data.shards import read_manifest
from data.sources.base import Item, Source, SourceError

STRANGE_NAMES = [
    "two words/a picture.png",
    'it\'s/"quoted".png',
    "naïve 猫/ñandú 🐈.png",
    "v1..2/a..b.png",
    "a../x...png",
    "semi;colon/a&b$(c)`d`.png",
    "star*[x]{1..3}?/%20#hash.png",
    "back\\slash/a\\b.png",
    "-dash/--option.png",
    "cat.png/x.png",
]


def picture(seed: int = 0, size: tuple[int, int] = (7, 5), *, kind: str = "PNG", mode: str = "RGB") -> bytes:
    """A file of random pixels, each seed's its own. size: (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def pixels_of(item: Item) -> bytes:
    return item.open().tobytes()


def shown(payload: bytes) -> bytes:
    """The pixels of an image file, as `pixels_of` gives them."""
    return Image.open(io.BytesIO(payload)).tobytes()


def write_images(root: Path, *names: str) -> Path:
    """A random 7x5 RGB picture for each relative name, all different."""
    return write_files(root, {name: picture(100 * len(names) + n) for n, name in enumerate(names)})


def plain_source(counts: dict[str | None, int]) -> Source:
    """In-memory 4x4 images, `num` for each class, all different."""
    items = []
    for label, num in counts.items():
        for number in range(num):
            image = Image.fromarray(np.random.default_rng(len(items)).integers(0, 256, (4, 4, 3), np.uint8))
            items.append(Item(f"{label}/{number}", label, None, image.copy))
    return Source("plain", "0", lambda: tuple(items))


def job(**changes: object) -> Job:
    defaults = {"channels": 3, "image_size": 4, "seed": 0, "test_fraction": 0.25, "max_bad_fraction": 0.0}
    return Job(**{**defaults, **changes})


def rows(folder: Path, split: str | None = None) -> list[dict[str, object]]:
    return read_manifest(folder, split).to_pylist()


def contents(place: Path | str) -> dict[str, str]:
    """Digests of all files below, by name."""
    folder = as_folder(place)
    return {name: hashlib.sha256(folder.read(name)).hexdigest() for name in folder.names()}


def flip_bit(path: Path, offset: int) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[offset] ^= 1
    path.write_bytes(damaged)


def tar_bytes(members: Mapping[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write_files(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_tar(file: Path, members: Mapping[str, bytes]) -> None:
    write_files(file.parent, {file.name: tar_bytes(members)})


def message_of(open_source: Callable[..., Source], *arguments: object) -> str:
    """The one line that is said when a source is opened and its items are asked for."""
    with pytest.raises(SourceError) as caught:
        _ = open_source(*arguments).items
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_known_by_size_and_time(open_source: Callable[[], Source], file: Path) -> None:
    """A source's identity follows a file's size and time of change, and not its contents."""
    before, status = open_source().identity, file.stat()
    file.write_bytes(bytes(status.st_size))
    os.utime(file, ns=(0, status.st_mtime_ns))
    assert open_source().identity == before
    os.utime(file, ns=(0, status.st_mtime_ns + 1))
    assert open_source().identity != before
