"""A split of prepared shards as an indexable collection of equally sized uint8 images.

Small images are decoded once, into a file beside the shards that every process maps into memory. Others are
read from their shards by the manifest's offsets, which makes any order and any starting point equally cheap.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL.Image import DecompressionBombError
from torch import Tensor
from webdataset.tariterators import group_by_keys, tar_file_expander

from data.crops import CentreCrop, quick_centre
from data.decode import Crop, decode_pixels
from data.devices import to_device
from data.fetch import FetchedFolder
from data.folders import UNFINISHED, Folder, LocalFolder, Place, as_folder, locked
from data.shards import Dataset, read_manifest, shards_of
from data.stream import WINDOW
from data.views import decode_found_views, decode_views, view_of

Indices = Sequence[int] | np.ndarray[tuple[Any, ...], np.dtype[np.int64]]
Crops = Sequence[Crop] | None
ShardSizes = np.ndarray[Any, np.dtype[np.int64]]
_CACHE_LIMIT = 8 << 30  # bytes of decoded pixels beside the shards
_UNREADABLE = (OSError, RuntimeError, ValueError, SyntaxError, DecompressionBombError)  # of damaged images
_SHARES = 16  # of a batch for each reader: handing images out one by one costs a tenth of reading them
_DEVICE_SHARE = 0.1  # of a device's free memory that a collection may take


class Images(Protocol):
    """A collection of images that come out equally sized."""

    @property
    def shards(self) -> ShardSizes | None:
        """Sizes of the shards that are best read one after another; None where any order is as cheap."""
        ...

    @property
    def centre(self) -> Crop | None:
        """What training sees of a whole frame without a random crop; None where images are squares."""
        ...

    def __len__(self) -> int: ...

    def get(self, indices: Indices, crops: Crops = None) -> Tensor:
        """(len(indices), C, H, W) uint8. `crops`: a box for each, resized; None is the test view."""
        ...

    def get_views(self, indices: Indices, views: Sequence[Crops]) -> list[Tensor]:
        """What `get` gives for each of several views of the same images, decoded once; they share nothing."""
        ...


class MemoryImages:
    """All images of a split, decoded through webdataset once. Raises ValueError when a shard misses one.

    `pixels`: (N, C, S, S) uint8, in a file that processes share, or on a device.
    """

    shards = centre = None

    def __init__(self, place: Place, split: str) -> None:
        self.pixels = _cached(as_folder(place), split)

    def __len__(self) -> int:
        return len(self.pixels)

    def to(self, device: torch.device) -> "MemoryImages":
        """Onto a GPU when they take little of its memory."""
        if (
            device.type == "cuda"
            and self.pixels.numel() <= _DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
        ):
            self.pixels = self.pixels.to(device)
        return self

    def get(self, indices: Indices, crops: Crops = None) -> Tensor:
        return self.get_views(indices, [crops])[0]

    def get_views(self, indices: Indices, views: Sequence[Crops]) -> list[Tensor]:
        chosen = to_device(torch.as_tensor(np.asarray(indices, dtype=np.int64)), self.pixels.device)
        squares = self.pixels[chosen]
        given = [squares if crops is None else crop_each(squares.cpu(), crops) for crops in views]
        return [view.clone() if view is squares and place else view for place, view in enumerate(given)]


class ShardImages:
    """Images read and decoded when asked for, by offset, a few at a time in threads."""

    shards: ShardSizes | None = None

    def __init__(self, place: Place, split: str, readers: int = 4) -> None:
        self.place, self.split = place, split
        manifest = read_manifest(place, split, ("shard", "offset", "size")).combine_chunks()
        dataset = Dataset.read(place)
        self.folder, self.as_found = shards_of(place, dataset), bool(dataset.shards_at)
        self.image_size, self.channels = dataset.image_size, dataset.channels
        self.names, self.shard_of = _codes(manifest["shard"])
        self.offsets, self.sizes = manifest["offset"].to_numpy(), manifest["size"].to_numpy()
        if not isinstance(self.folder, LocalFolder):
            self.shards = _run_lengths(self.shard_of)
            self.folder = FetchedFolder(self.folder, keep=2 * WINDOW)
        self.readers = readers
        self.pool = ThreadPoolExecutor(readers, initializer=torch.set_num_threads, initargs=(1,))
        self.test_view = CentreCrop(self.image_size) if dataset.whole else None
        self.centre = quick_centre(self.image_size) if dataset.whole else None

    def __len__(self) -> int:
        return len(self.offsets)

    def get(self, indices: Indices, crops: Crops = None) -> Tensor:
        return self.get_views(indices, [crops])[0]

    def get_views(self, indices: Indices, views: Sequence[Crops]) -> list[Tensor]:
        asked = [[self.test_view] * len(indices) if crops is None else crops for crops in views]
        shape = (len(indices), self.channels, self.image_size, self.image_size)
        out = [torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last) for _ in views]

        def fill(places: range) -> None:
            for place in places:
                read = self._read(int(indices[place]), [crops[place] for crops in asked])
                for images, view in zip(out, read, strict=True):
                    images[place] = view

        for crops in asked:
            _check_crops(crops, len(indices))
        share = max(1, -(-len(indices) // (_SHARES * self.readers)))
        parts = (range(len(indices))[start : start + share] for start in range(0, len(indices), share))
        for done in [self.pool.submit(fill, places) for places in parts]:
            done.result()
        return out

    def _read(self, index: int, crops: Sequence[Crop | None]) -> list[Tensor]:
        shard = self.names[self.shard_of[index]]
        payload = self.folder.read_part(shard, int(self.offsets[index]), int(self.sizes[index]))
        try:
            if self.as_found:
                return decode_found_views(payload, crops, self.image_size, self.channels)
            return decode_views(payload, crops, self.image_size)
        except _UNREADABLE as error:
            key = read_manifest(self.place, self.split, ["key"])["key"][int(index)].as_py()
            raise _damaged(key, self.folder, shard, error) from error


def _damaged(key: str, folder: Folder, shard: str, error: Exception) -> ValueError:
    reason = f"damaged since it was prepared ({error}); python -m data.check names all such images"
    return ValueError(f"{key} in {folder.shown}/{shard}: {reason}")


def by_shard(indices: np.ndarray[Any, np.dtype[np.int64]], shards: ShardSizes | None) -> Any:
    """The same indices (N,), those of a shard behind each other: each shard is fetched once.

    Shards come in the order of their first index, and so do the indices of a shard. shards: `Images.shards`.
    """
    if shards is None:
        return indices
    shard_of = np.searchsorted(np.cumsum(shards), indices, side="right")
    _, first, place = np.unique(shard_of, return_index=True, return_inverse=True)
    return indices[np.argsort(first[place], kind="stable")]


def crop_each(squares: Tensor, crops: Sequence[Crop]) -> Tensor:
    """Each image's own crop, resized back. squares: (B, C, S, S) uint8, and so the result."""
    _check_crops(crops, len(squares))
    size = squares.shape[-1]
    return torch.stack([view_of(square, crop, size) for square, crop in zip(squares, crops, strict=True)])


def _check_crops(crops: Sequence[Crop | None], num: int) -> None:
    if len(crops) != num:
        raise ValueError(f"{len(crops)} crops for {num} images; give one for each")


def open_images(place: Place, split: str, readers: int = 4) -> tuple[Images, Tensor]:
    """A split's images and labels (N,) int64; a label of -1 means none. readers: threads that decode.

    Raises FileNotFoundError where there are no finished shards, ValueError for a split that they lack.
    """
    dataset = Dataset.read(place)
    if dataset.counts and split not in dataset.counts:
        raise ValueError(
            f"{as_folder(place).shown} has no split {split!r}; it has {', '.join(dataset.counts)}"
        )
    labels = read_manifest(place, split, ["label"])["label"].to_numpy()
    num_bytes = len(labels) * dataset.channels * dataset.image_size**2
    cached = not (dataset.whole or dataset.shards_at) and num_bytes <= _CACHE_LIMIT
    images = MemoryImages(place, split) if cached else ShardImages(place, split, readers)
    return images, torch.from_numpy(labels.copy())


def _codes(column: Any) -> tuple[list[str], np.ndarray[Any, np.dtype[np.int32]]]:
    """The values of a column of strings, and which of them each row has."""
    encoded = column.combine_chunks()
    encoded = encoded if hasattr(encoded, "dictionary") else encoded.dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy()


def _run_lengths(codes: np.ndarray[Any, np.dtype[np.int32]]) -> ShardSizes:
    """Of equal neighbours."""
    changes = np.flatnonzero(np.diff(codes)) + 1
    return np.diff(np.concatenate([[0], changes, [len(codes)]]))


def _cached(folder: Folder, split: str) -> Tensor:
    """The cache file's pixels, made by whoever comes first; in memory where none can be written."""
    dataset = Dataset.read(folder)
    keys = read_manifest(folder, split, ["key"])["key"].to_pylist()
    shape = (len(keys), dataset.channels, dataset.image_size, dataset.image_size)
    file = _cache_file(folder, split, dataset)
    if file is None or not keys:
        return _decode_all(folder, split, torch.empty(shape, dtype=torch.uint8))
    try:
        with locked(file.with_name(f"{file.name}.lock{UNFINISHED}")):
            if not file.is_file() or file.stat().st_size != np.prod(shape):
                _write_cache(file, folder, split, shape)
    except _NoRoomError:
        return _decode_all(folder, split, torch.empty(shape, dtype=torch.uint8))
    # Copy on write: the collection stays as it is, whatever becomes of a batch.
    return torch.from_numpy(np.memmap(file, np.uint8, "c", shape=shape))


class _NoRoomError(Exception):
    """No cache can be written here."""


def _write_cache(file: Path, folder: Folder, split: str, shape: tuple[int, ...]) -> None:
    near = file.with_name(f"{file.name}{UNFINISHED}")
    try:
        try:
            with near.open("wb") as opened:  # a disk that fills while it is written would end the process
                os.posix_fallocate(opened.fileno(), 0, int(np.prod(shape)))
        except OSError as error:
            raise _NoRoomError from error
        mapped = np.memmap(near, np.uint8, "r+", shape=shape)
        _decode_all(folder, split, torch.from_numpy(mapped))
        mapped.flush()  # else a power cut could leave the name with other bytes
        os.replace(near, file)
    finally:
        near.unlink(missing_ok=True)


def _cache_file(folder: Folder, split: str, dataset: Dataset) -> Path | None:
    if not isinstance(folder, LocalFolder) or not dataset.sha256 or not os.access(folder.path, os.W_OK):
        return None
    return folder.path / f".{split}-{dataset.sha256[:16]}.pixels"


def _decode_all(folder: Folder, split: str, pixels: Tensor) -> Tensor:
    """Fills pixels (N, C, S, S), placed by key whatever the order in the shards."""
    manifest = read_manifest(folder, split, ["key", "shard", "suffix"])
    place = {key: index for index, key in enumerate(manifest["key"].to_pylist())}
    suffixes = manifest["suffix"].to_pylist()
    found = 0
    for sample in _samples(folder, sorted(set(manifest["shard"].to_pylist()))):
        index = place.get(sample["__key__"])
        if index is not None and suffixes[index] in sample:
            try:
                pixels[index] = torch.from_numpy(decode_pixels(sample[suffixes[index]]).copy())
            except _UNREADABLE as error:
                raise _damaged(sample["__key__"], folder, sample["__url__"], error) from error
            found += 1
    if not found == len(place) == len(pixels):
        raise ValueError(
            f"{folder.shown}: the {split} shards hold {found} images, the manifest {len(pixels)}"
        )
    return pixels


def _samples(folder: Folder, shards: Sequence[str]) -> Iterator[dict[str, Any]]:
    """webdataset's samples of whole shards, given as open files: their paths may hold any character."""
    streams = ({"url": shard, "stream": folder.open(shard)} for shard in shards)
    samples: Iterator[dict[str, Any]] = group_by_keys(tar_file_expander(streams))
    return samples
