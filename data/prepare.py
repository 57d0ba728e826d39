"""Source to shards by hand: `python -m data.prepare SOURCE --out URI --image-size N`.

The preprocess stage runs the same `data.build.build`, over Ray.
"""

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from typing import Annotated

import pyarrow as pa
import typer
from rich.console import Console
from rich.progress import Progress

from data.build import SMALL, build, here, over_processes
from data.command_line import app_of, call, say_error
from data.decode import ENCODERS
from data.folders import FolderError, as_folder
from data.identical import told
from data.part import Job
from data.redact import redact_address
from data.shards import DATASET_FILE, Dataset
from data.sources.base import Source, SourceError
from data.sources.named import NAMED, PHOTOGRAPHS, open_source
from data.visible import visible

_LARGEST = 4096  # pixels a side
_NAMED = 20  # of a kind
_NAMES = f"a name ({', '.join((*sorted(NAMED), f'{PHOTOGRAPHS}-K'))})"


def main(
    source: Annotated[
        str, typer.Argument(help=f"{_NAMES} or a folder, an archive, Parquet files or shards of images")
    ],
    out: Annotated[
        str, typer.Option(help="new folder, s3:// or gs:// address for shards, manifest and dataset.json")
    ],
    image_size: Annotated[
        int, typer.Option(help="pixels a side that models see: short side resized, centre square kept")
    ],
    channels: Annotated[int, typer.Option(help="3 for RGB, 1 for grey")] = 3,
    test_fraction: Annotated[
        float, typer.Option(help="held out of each class, unless the folder says")
    ] = 0.2,
    max_bad_fraction: Annotated[float, typer.Option(help="undecodable images tolerated")] = 0.01,
    root: Annotated[str, typer.Option(help="where named collections and relative paths start")] = ".",
    short_side: Annotated[
        int | None,
        typer.Option(help="keep whole images, a longer short side made this, for random crops"),
    ] = None,
    encoding: Annotated[str, typer.Option(help="png or webp (lossless), or jpg (quality 95)")] = "png",
    max_images: Annotated[int | None, typer.Option(help="of each split, evenly over the classes")] = None,
    shard_mb: Annotated[float, typer.Option(help="size of a shard, about, in millions of bytes")] = 100,
    processes: Annotated[int, typer.Option(min=1, help="that decode and encode")] = os.cpu_count() or 1,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="of the split and of the order within shards")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print the dataset's description as JSON")] = False,
) -> None:
    """Turn a collection of images into WebDataset shards with a Parquet manifest."""
    given = ""  # what an error is about, where its text does not say
    try:
        _check_options(channels, image_size, test_fraction, max_bad_fraction)
        _check_storage(image_size, short_side, encoding, max_images, shard_mb)
        given = f"{redact_address(source)}: "
        opened = open_source(source, root)
        notes = list(_notes_of_source(opened))
        given = ""
        job = Job(
            channels,
            image_size,
            seed,
            test_fraction,
            max_bad_fraction,
            short_side=short_side,
            encoding=encoding,
            max_images=max_images,
            shard_mb=shard_mb,
        )
        known = as_folder(out).size(DATASET_FILE) is not None
        dataset = _build(opened, out, job, processes)
    except (ValueError, OSError, pa.ArrowException, BrokenExecutor) as error:
        say_error(f"{given}{error}")
        raise typer.Exit(2 if isinstance(error, SourceError | FolderError) else 1) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on with the shards that are missing", err=True)
        raise typer.Exit(130) from None
    shown = redact_address(out)
    for line in (*_notes(dataset, job), *notes):
        typer.echo(visible(line), err=True)
    if known:
        typer.echo(f"note: it was there already; python -m data.check {shown} verifies it", err=True)
    summary = {
        "out": shown,
        "counts": dataset.counts,
        "rejected": len(dataset.rejected),
        "identical": dataset.num_identical,
    }
    counts = ", ".join(f"{count} {split}" for split, count in dataset.counts.items())
    typer.echo(
        json.dumps(summary) if as_json else f"{shown}: {counts} images, {len(dataset.rejected)} rejected"
    )


def _notes_of_source(source: Source) -> Iterator[str]:
    num_unlabelled = source.labels.count(None)
    if num_unlabelled == len(source.items):
        yield "note: no image has a class; that is fine for seeds alone"
    elif num_unlabelled:
        yield f"note: {num_unlabelled} images have no class, others have: is that meant?"
    learnt = {own for own, split in zip(source.labels, source.splits, strict=True) if split != "test"}
    if unseen := sorted({own for own in source.labels if own is not None} - learnt):
        yield f"note: {', '.join(unseen[:_NAMED])} only among test images"


def _notes(dataset: Dataset, job: Job) -> Iterator[str]:
    """What a person should know of the dataset besides its counts."""
    for bad in dataset.rejected[:_NAMED]:
        yield f"left out: {bad['source']}: {bad['reason']}"
    if len(dataset.rejected) > _NAMED:
        yield f"left out: {len(dataset.rejected) - _NAMED} more; {DATASET_FILE} names them"
    for group in dataset.identical[:_NAMED]:
        yield told(group)
    if dataset.num_identical > _NAMED:
        yield f"identical images: {dataset.num_identical - _NAMED} more groups"
    for split in job.split_names:
        if not dataset.counts.get(split):
            yield f"note: there is no {split} image; a class of one image is all kept to train with"
    if dataset.shards_at:
        yield f"note: nothing was copied; {dataset.shards_at} must stay where it is"


def _check_options(channels: int, image_size: int, test_fraction: float, max_bad_fraction: float) -> None:
    if channels not in (1, 3):
        raise SourceError(f"--channels {channels}: must be 1 (grey) or 3 (RGB)")
    if not 1 <= image_size <= _LARGEST:
        raise SourceError(f"--image-size {image_size}: must lie between 1 and {_LARGEST}")
    if not 0 < test_fraction < 1:
        raise SourceError(f"--test-fraction {test_fraction}: must lie between 0 and 1")
    if not 0 <= max_bad_fraction <= 1:
        raise SourceError(f"--max-bad-fraction {max_bad_fraction}: must lie between 0 and 1")


def _check_storage(
    image_size: int, short_side: int | None, encoding: str, max_images: int | None, shard_mb: float
) -> None:
    if short_side is not None and short_side < image_size:
        raise SourceError(f"--short-side {short_side}: must be at least --image-size {image_size}")
    if encoding not in ENCODERS:
        raise SourceError(f"--encoding {encoding}: use {' or '.join(ENCODERS)}")
    if max_images is not None and max_images < 1:
        raise SourceError(f"--max-images {max_images}: must be at least 1; leave it out to take all")
    if not shard_mb > 0:
        raise SourceError(f"--shard-mb {shard_mb}: must be greater than 0")


def _build(source: Source, out: str, job: Job, processes: int) -> Dataset:
    spread = here if processes == 1 or len(source.items) <= SMALL else over_processes(processes)
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("images", total=None)
        return build(
            source,
            out,
            job,
            spread=spread,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


if __name__ == "__main__":
    sys.exit(call(app_of(main)))
