"""Shards to files that other tools read: `python -m data.export SHARDS --npz FILE --png FOLDER`."""

import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import IO, Annotated
from uuid import uuid4

import numpy as np
import pyarrow as pa
import torch
import typer
from numpy.lib import format as npy
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from data.command_line import app_of, call
from data.damage import shard_damage
from data.decode import encode_png
from data.folders import UNFINISHED, FolderError, LocalFolder, is_address
from data.images import Images, ShardImages
from data.redact import redact, redact_address
from data.shards import Dataset, read_manifest, shards_of
from data.views import to_image

Report = Callable[[int, int], None]  # images done, of how many
_BATCH_BYTES = 16 << 20  # of pixels at a time
_DAMAGE = (pa.ArrowException, OSError, KeyError, TypeError, ValueError, RuntimeError, MemoryError)


class ExportError(ValueError):
    """What cannot be exported as asked; the text says what can."""


def write_npz(path: Path, images: Images, labels: Tensor, report: Report = lambda done, num: None) -> None:
    """All images in their order as `arr_0` (N, H, W, 3) uint8, their labels as `arr_1` (N,) int64.

    Grey is repeated to three channels; `arr_1` is left out where no image has a label, -1 means none where
    some have. Uncompressed, a batch in memory at a time; the file appears whole or not at all.
    Raises FileExistsError for a path that is taken, ValueError for no images, damaged ones or other labels.
    Source: guided-diffusion's evaluations/evaluator.py reads this, scripts/image_sample.py writes it.
    """
    file, (height, width) = _vacant(path), _size(images, labels)
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
    target, _ = _vacant(folder, or_empty=True), _size(images, labels)
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


def _vacant(path: Path, or_empty: bool = False) -> Path:
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


def _check_targets(npz: str | None, png: str | None) -> None:
    given = {option: path for option, path in (("--npz", npz), ("--png", png)) if path is not None}
    if not given:
        raise ExportError("--npz, --png: neither is given; give one or both")
    full = {}
    for option, path in given.items():
        if is_address(path):
            raise ExportError(f"{option}: {redact_address(path)}; use a local path")
        try:
            full[option] = _vacant(Path(path), or_empty=option == "--png")
        except OSError as error:
            raise ExportError(f"{option}: {error}") from None
    if len(full) == 2 and full["--npz"] in (full["--png"], *full["--png"].parents):
        raise ExportError(f"--npz: {npz} is a folder of --png {png}; give another file")


def _pick_split(place: str, asked: str | None) -> str:
    """The split that is asked for; else the only one, or the sample stage's."""
    try:
        counts = Dataset.read(place).counts
    except (FileNotFoundError, NotADirectoryError):
        allowed = "give a folder that data.prepare or a sample stage wrote"
        raise ExportError(f"SHARDS: {redact_address(place)} holds no finished shards; {allowed}") from None
    names = [name for name, num in counts.items() if num]
    chosen = asked or (names[0] if len(names) == 1 else "samples")
    if chosen not in names:
        allowed = f"use {' or '.join(names)}" if names else "give shards that hold images"
        raise ExportError(f"--split: {asked or 'not given'}; {allowed}")
    return chosen


def _first_damage(place: str, split: str, report: Report) -> str | None:
    """What is wrong with the first of a split's images that is not as the manifest says."""
    dataset = Dataset.read(place)
    table = read_manifest(place, split, ["key", "label", "shard", "offset", "size", "sha256", "suffix"])
    rows = (row for batch in table.to_batches(max_chunksize=10_000) for row in batch.to_pylist())
    done = 0
    for _, group in groupby(rows, key=lambda row: row["shard"]):
        of_shard = list(group)
        if found := shard_damage(shards_of(place, dataset), of_shard, own=not dataset.shards_at):
            return found[0]
        done += len(of_shard)
        report(done, len(table))
    return None


def _export(place: str, split: str, npz: str | None, png: str | None) -> int:
    """Returns the number of images. They are read by offset: nothing is left beside the shards."""
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:

        def told(name: str) -> Report:
            task = bar.add_task(name, total=None)
            return lambda done, num: bar.update(task, completed=done, total=num)

        if found := _first_damage(place, split, told("check")):
            raise ValueError(f"{found}; python -m data.check names all such images")
        images = ShardImages(place, split)
        labels = torch.from_numpy(read_manifest(place, split, ["label"])["label"].to_numpy().copy())
        for option, path, write in (("--png", png, write_pngs), ("--npz", npz, write_npz)):
            try:
                if path is not None:
                    write(Path(path), images, labels, told(option.strip("-")))
            except OSError as error:
                raise ExportError(
                    f"{option}: {path} cannot be written: {error}; give another place"
                ) from None
    return len(images)


def main(
    place: Annotated[
        str, typer.Argument(metavar="SHARDS", help="folder, s3:// or gs:// address of prepared shards")
    ],
    split: Annotated[
        str | None, typer.Option(help="train, test, ...; the only one or 'samples' if left out")
    ] = None,
    npz: Annotated[str | None, typer.Option(help="new file for guided-diffusion's evaluator")] = None,
    png: Annotated[str | None, typer.Option(help="new or empty folder for a PNG file an image")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Write prepared images as arrays (.npz), as PNG files or both; exit 1 when the shards are damaged."""
    shown = redact_address(place)
    try:
        _check_targets(npz, png)
        chosen = _pick_split(place, split)
        num = _export(place, chosen, npz, png)
    except (ExportError, FolderError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except _DAMAGE as error:
        typer.echo(f"error: {shown}: {redact(str(error))}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command begins anew", err=True)
        raise typer.Exit(130) from None
    summary = {"split": chosen, "num_images": num, "npz": npz, "png": png}
    where = " and ".join(path for path in (npz, png) if path is not None)
    typer.echo(json.dumps(summary) if as_json else f"{shown}: {num} {chosen} images in {where}")


if __name__ == "__main__":
    sys.exit(call(app_of(main)))
