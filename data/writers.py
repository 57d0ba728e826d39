"""Images to files that other tools read: arrays in an `.npz`, or PNGs in a folder."""

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import uuid4

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from data.decode import encode_png
from data.folders import UNFINISHED, LocalFolder
from data.images import Images
from data.views import to_image

Report = Callable[[int, int], None]  # images done, of how many
_BATCH_BYTES = 16 << 20  # of pixels at a time


def write_npz(path: Path, images: Images, labels: Tensor, report: Report = lambda done, num: None) -> None:
    """All images in their order as `arr_0` (N, H, W, 3) uint8, their labels as `arr_1` (N,) int64.

    Grey is repeated to three channels; `arr_1` is left out where no image has a label, -1 means none where
    some have. Uncompressed, a batch in memory at a time; the file appears whole or not at all.
    Raises FileExistsError for a path that is taken, ValueError for no images, damaged ones or other labels.
    Source: guided-diffusion's evaluations/evaluator.py reads this, scripts/image_sample.py writes it.
    """
    file, (height, width) = vacant(path), _size(images, labels)
    with LocalFolder(file.parent).new_file(file.name) as out, zipfile.ZipFile(out, "w") as archive:
        with _member(archive, "arr_0", np.dtype(np.uint8), (len(images), height, width, 3)) as member:
            for pixels in _batches(images, report):
                member.write(pixels.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy().tobytes())
        if (labels >= 0).any():
            with _member(archive, "arr_1", np.dtype(np.int64), (len(images),)) as member:
                member.write(labels.numpy().tobytes())


def write_pngs(folder: Path, images: Images, labels: Tensor, report: Report = lambda done, num: None) -> None:
    """All images as `<index>_<label>.png` in one folder, `<index>.png` without a label; 000000 is the first.

    Pixels and channels are the images' own. The folder appears whole or not at all. Raises FileExistsError
    for one that holds something, ValueError for no images, damaged ones or other labels.
    """
    target, _ = vacant(folder, or_empty=True), _size(images, labels)
    names = (f"{n:06d}_{y}.png" if y >= 0 else f"{n:06d}.png" for n, y in enumerate(labels.tolist()))
    near = target.with_name(f".{target.name}.{uuid4().hex[:8]}{UNFINISHED}")
    near.mkdir(parents=True)
    try:
        with ThreadPoolExecutor() as pool:
            for pixels in _batches(images, report):
                for png in pool.map(encode_png, map(to_image, pixels)):
                    (near / next(names)).write_bytes(png)
        os.replace(near, target)
    finally:
        shutil.rmtree(near, ignore_errors=True)


def vacant(path: Path, or_empty: bool = False) -> Path:
    """The path in full. Raises FileExistsError if it is taken, OSError where nothing can be written."""
    full = path.expanduser().resolve()
    if full.exists() and not (or_empty and full.is_dir() and not any(full.iterdir())):
        raise FileExistsError(f"{path} exists; give a new {'folder' if or_empty else 'file'}")
    above = next(folder for folder in full.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written; give a place in a folder that can")
    return full


def _size(images: Images, labels: Tensor) -> tuple[int, int]:
    """(H, W) of images that have a label each."""
    if not len(images):
        raise ValueError("no images; give a split that holds some")
    if labels.shape != (len(images),) or labels.dtype != torch.int64:
        given = f"{tuple(labels.shape)} {labels.dtype}"
        raise ValueError(f"labels: {given}; give ({len(images)},) torch.int64, -1 for none")
    height, width = images.get([0]).shape[2:]
    return height, width


def _batches(images: Images, report: Report) -> Iterator[Tensor]:
    num, each = len(images), max(1, _BATCH_BYTES // images.get([0]).numel())
    for start in range(0, num, each):
        end = min(start + each, num)
        yield images.get(range(start, end)).cpu()
        report(end, num)


@contextmanager
def _member(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]
) -> Iterator[IO[bytes]]:
    """A place for an array's values behind its header. Without a time: equal images give equal bytes."""
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(member, header)
        yield member
