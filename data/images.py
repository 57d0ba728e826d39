"""A split of prepared shards as an indexable collection of uint8 images.

Decoded once and kept in memory when it fits; otherwise each image is read from its shard by the
manifest's offset, which makes any order and any starting point equally cheap.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from webdataset.tariterators import group_by_keys, tar_file_expander

from data.decode import decode_pixels
from data.shards import Dataset, read_manifest

Indices = Sequence[int] | np.ndarray[tuple[Any, ...], np.dtype[np.int64]]
_MEMORY_LIMIT = 2 << 30  # bytes of decoded pixels kept by one process
_READERS = 4


class Images(Protocol):
    """A collection of equally sized images."""

    def __len__(self) -> int: ...

    def get(self, indices: Indices) -> Tensor:
        """(len(indices), C, H, W) uint8."""
        ...


class MemoryImages:
    """All images of a split, decoded through webdataset once. Raises ValueError when a shard misses one."""

    def __init__(self, folder: Path, split: str) -> None:
        manifest = read_manifest(folder, split)
        place = {key: index for index, key in enumerate(manifest["key"].to_pylist())}
        shards = sorted(set(manifest["shard"].to_pylist()))
        dataset = Dataset.read(folder)
        size = dataset.image_size
        self.pixels = torch.empty(len(place), dataset.channels, size, size, dtype=torch.uint8)
        found = 0
        for sample in _samples([folder / shard for shard in shards]):
            if sample["__key__"] in place and "png" in sample:
                pixels = torch.from_numpy(decode_pixels(sample["png"]).copy())
                self.pixels[place[sample["__key__"]]] = pixels
                found += 1
        if found != len(place):
            raise ValueError(f"{folder}: the {split} shards hold {found} images, the manifest {len(place)}")

    def __len__(self) -> int:
        return len(self.pixels)

    def get(self, indices: Indices) -> Tensor:
        return self.pixels[torch.as_tensor(np.asarray(indices, dtype=np.int64))]


class ShardImages:
    """Images read and decoded when asked for, by offset, a few at a time in threads."""

    def __init__(self, folder: Path, split: str) -> None:
        manifest = read_manifest(folder, split)
        self.folder = folder
        self.places = list(
            zip(
                manifest["shard"].to_pylist(),
                manifest["offset"].to_pylist(),
                manifest["size"].to_pylist(),
                strict=True,
            )
        )
        self.pool = ThreadPoolExecutor(_READERS)

    def __len__(self) -> int:
        return len(self.places)

    def get(self, indices: Indices) -> Tensor:
        return torch.from_numpy(np.stack(list(self.pool.map(self._read, indices))))

    def _read(self, index: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        shard, offset, size = self.places[index]
        with (self.folder / shard).open("rb") as file:
            file.seek(offset)
            return decode_pixels(file.read(size))


def _samples(shards: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """webdataset's samples of whole shards, given as open files: their paths may hold any character."""
    streams = ({"url": str(shard), "stream": shard.open("rb")} for shard in shards)
    samples: Iterator[dict[str, Any]] = group_by_keys(tar_file_expander(streams))
    return samples


def open_images(folder: Path, split: str) -> tuple[Images, Tensor]:
    """A split's images and labels (N,) int64; a label of -1 means none."""
    manifest, dataset = read_manifest(folder, split), Dataset.read(folder)
    num_bytes = len(manifest) * dataset.channels * dataset.image_size**2
    images = MemoryImages(folder, split) if num_bytes <= _MEMORY_LIMIT else ShardImages(folder, split)
    return images, torch.tensor(manifest["label"].to_pylist(), dtype=torch.int64)
