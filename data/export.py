"""Shards to files that other tools read: `python -m data.export SHARDS --npz FILE --png FOLDER`."""

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import torch
import typer
from rich.console import Console
from rich.progress import Progress

from data.command_line import app_of, call, say_error
from data.damage import shard_damage
from data.folders import FolderError, is_address
from data.images import ShardImages
from data.redact import redact_address
from data.shards import Dataset, read_manifest, shards_of
from data.writers import Report, vacant, write_npz, write_pngs

_DAMAGE = (pa.ArrowException, OSError, KeyError, TypeError, ValueError, RuntimeError, MemoryError)


class ExportError(ValueError):
    """What cannot be exported as asked; the text says what can."""


def _check_targets(npz: str | None, png: str | None) -> None:
    given = {option: path for option, path in (("--npz", npz), ("--png", png)) if path is not None}
    if not given:
        raise ExportError("--npz, --png: neither is given; give one or both")
    full = {}
    for option, path in given.items():
        if is_address(path):
            raise ExportError(f"{option}: {redact_address(path)}; use a local path")
        try:
            full[option] = vacant(Path(path), or_empty=option == "--png")
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
        say_error(str(error))
        raise typer.Exit(2) from None
    except _DAMAGE as error:
        say_error(f"{shown}: {error}")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command begins anew", err=True)
        raise typer.Exit(130) from None
    summary = {"split": chosen, "num_images": num, "npz": npz, "png": png}
    where = " and ".join(path for path in (npz, png) if path is not None)
    typer.echo(
        json.dumps(summary) if as_json else f"{shown}: {num:,} images of its split {chosen} in {where}"
    )


if __name__ == "__main__":
    sys.exit(call(app_of(main)))
