"""A split of prepared shards as an indexable collection of equally sized uint8 images.

Decoded once and kept in memory when it fits; otherwise each image is read from its shard by the
manifest's offset, which makes any order and any starting point equally cheap.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from webdataset.tariterators import group_by_keys, tar_file_expander

from data.crops import centre_crop
from data.decode import Crop, Pixels, crop_pixels, decode_crop, decode_pixels
from data.shards import Dataset, read_manifest

Indices = Sequence[int] | np.ndarray[tuple[Any, ...], np.dtype[np.int64]]
_MEMORY_LIMIT = 2 << 30  # bytes of decoded pixels kept by one process
_READERS = 4


class Images(Protocol):
    """A collection of images that come out equally sized."""

    def __len__(self) -> int: ...

    def get(self, indices: Indices, crops: Sequence[Crop] | None = None) -> Tensor:
        """(len(indices), C, H, W) uint8. `crops`: a box for each, resized; None is the test view."""
        ...


class MemoryImages:
    """All images of a split, decoded through webdataset once. Raises ValueError when a shard misses one."""

    def __init__(self, folder: Path, split: str) -> None:
        manifest = read_manifest(folder, split)
        place = {key: index for index, key in enumerate(manifest["key"].to_pylist())}
        suffixes = dict(zip(manifest["key"].to_pylist(), manifest["suffix"].to_pylist(), strict=True))
        shards = sorted(set(manifest["shard"].to_pylist()))
        dataset = Dataset.read(folder)
        size = dataset.image_size
        self.pixels = torch.empty(len(place), dataset.channels, size, size, dtype=torch.uint8)
        found = 0
        for sample in _samples([folder / shard for shard in shards]):
            key = sample["__key__"]
            if key in place and suffixes[key] in sample:
                self.pixels[place[key]] = torch.from_numpy(decode_pixels(sample[suffixes[key]]).copy())
                found += 1
        if found != len(place):
            raise ValueError(f"{folder}: the {split} shards hold {found} images, the manifest {len(place)}")

    def __len__(self) -> int:
        return len(self.pixels)

    def get(self, indices: Indices, crops: Sequence[Crop] | None = None) -> Tensor:
        squares = self.pixels[torch.as_tensor(np.asarray(indices, dtype=np.int64))]
        return squares if crops is None else crop_each(squares, crops)


class ShardImages:
    """Images read and decoded when asked for, by offset, a few at a time in threads."""

    def __init__(self, folder: Path, split: str) -> None:
        manifest = read_manifest(folder, split)
        dataset = Dataset.read(folder)
        self.folder, self.image_size = folder, dataset.image_size
        self.places = list(
            zip(
                manifest["shard"].to_pylist(),
                manifest["offset"].to_pylist(),
                manifest["size"].to_pylist(),
                strict=True,
            )
        )
        self.pool = ThreadPoolExecutor(_READERS)
        self.test_view = centre_crop(self.image_size) if dataset.whole else None

    def __len__(self) -> int:
        return len(self.places)

    def get(self, indices: Indices, crops: Sequence[Crop] | None = None) -> Tensor:
        views: Sequence[Crop | None] = [self.test_view] * len(indices) if crops is None else crops
        asked = zip(indices, views, strict=True)
        return torch.from_numpy(np.stack(list(self.pool.map(self._read, asked))))

    def _read(self, asked: tuple[int, Crop | None]) -> Pixels:
        index, crop = asked
        shard, offset, size = self.places[index]
        with (self.folder / shard).open("rb") as file:
            file.seek(offset)
            payload = file.read(size)
        return decode_pixels(payload) if crop is None else decode_crop(payload, crop, self.image_size)


def crop_each(squares: Tensor, crops: Sequence[Crop]) -> Tensor:
    """Each image's own crop, resized back. squares: (B, C, S, S) uint8, and so the result."""
    return torch.from_numpy(
        np.stack(
            [
                crop_pixels(to_image(square), crop, squares.shape[-1])
                for square, crop in zip(squares, crops, strict=True)
            ]
        )
    )


def to_image(pixels: Tensor) -> Image.Image:
    """(C, H, W) uint8, one channel or three."""
    array = pixels.permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def _samples(shards: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """webdataset's samples of whole shards, given as open files: their paths may hold any character."""
    streams = ({"url": str(shard), "stream": shard.open("rb")} for shard in shards)
    samples: Iterator[dict[str, Any]] = group_by_keys(tar_file_expander(streams))
    return samples


def open_images(folder: Path, split: str) -> tuple[Images, Tensor]:
    """A split's images and labels (N,) int64; a label of -1 means none."""
    manifest, dataset = read_manifest(folder, split), Dataset.read(folder)
    num_bytes = len(manifest) * dataset.channels * dataset.image_size**2
    in_memory = not dataset.whole and num_bytes <= _MEMORY_LIMIT
    images = MemoryImages(folder, split) if in_memory else ShardImages(folder, split)
    return images, torch.tensor(manifest["label"].to_pylist(), dtype=torch.int64)
