"""Shards against their manifest: `python -m data.check URI` names every damaged sample."""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Annotated

import pyarrow as pa
import typer

from data.command_line import app_of, call, say_error
from data.damage import shard_damage
from data.folders import FolderError, Place, as_folder
from data.redact import redact_address
from data.shards import (
    DATASET_FILE,
    MANIFEST_FILE,
    Dataset,
    ManifestDigest,
    Row,
    read_manifest,
    shards_of,
    sides,
)
from data.visible import visible

_LISTED = 50  # damaged samples by name, without --json
_READERS = 4  # hashing leaves Python's lock to others


def find_damage(place: Place) -> Iterator[str]:
    """One line for each sample that is missing, or whose bytes or label differ from the manifest.

    Before them, what is wrong with the manifest or the description themselves.
    """
    dataset = Dataset.read(place) if as_folder(place).size(DATASET_FILE) is not None else None
    yield from _misdescribed(place, dataset)
    shards = shards_of(place, dataset) if dataset else as_folder(place)
    own = dataset is None or not dataset.shards_at
    with ThreadPoolExecutor(_READERS) as pool:
        for found in pool.map(lambda rows: shard_damage(shards, rows, own=own), _rows_by_shard(place)):
            yield from found


def _misdescribed(place: Place, dataset: Dataset | None) -> Iterator[str]:
    if dataset is None:
        yield f"{DATASET_FILE} is missing: the shards are not finished; data.prepare goes on with them"
        return
    digest = ManifestDigest()
    table = read_manifest(place, columns=["key", "label", "class_name", "split", "sha256", "width", "height"])
    for batch in table.to_batches(max_chunksize=10_000):
        digest.add(pa.Table.from_batches([batch]))
    if digest.hexdigest() != dataset.sha256:
        yield f"{MANIFEST_FILE} differs from the digest in {DATASET_FILE}"
    columns = {"label": table["label"], "class_name": table["class_name"].cast(pa.string())}
    counts = {
        pair["values"]: pair["counts"] for pair in table["split"].cast(pa.string()).value_counts().to_pylist()
    }
    if counts != dataset.counts:
        yield f"{DATASET_FILE} counts {dataset.counts}, the manifest {counts}"
    if not dataset.whole and not dataset.shards_at:
        odd = sides(table) - {dataset.image_size}
        if odd:
            yield f"{DATASET_FILE} says {dataset.image_size} pixels a side, the manifest {sorted(odd)[0]}"
    pairs = pa.table(columns).group_by(["label", "class_name"]).aggregate([]).sort_by("label")
    for label, name in zip(pairs["label"].to_pylist(), pairs["class_name"].to_pylist(), strict=True):
        told = "" if label < 0 else dict(enumerate(dataset.classes)).get(label)
        if told != name:
            yield f"{DATASET_FILE} calls class {label} {told!r}, the manifest {name!r}"


def _rows_by_shard(place: Place) -> Iterator[list[Row]]:
    table = read_manifest(place, columns=["key", "label", "shard", "offset", "size", "sha256", "suffix"])
    rows = (row for batch in table.to_batches(max_chunksize=10_000) for row in batch.to_pylist())
    return (list(group) for _, group in groupby(rows, key=lambda row: row["shard"]))


def main(
    place: Annotated[str, typer.Argument(help="folder, s3:// or gs:// address that data.prepare wrote")],
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Verify shards: exit 0 when sound, 1 when damaged or unreadable, 2 when there is no manifest."""
    shown = redact_address(place)
    try:
        folder = as_folder(place)
        if folder.size(MANIFEST_FILE) is None:
            below = sorted(name for name in folder.names() if name.endswith(f"/{MANIFEST_FILE}"))
            hint = " or ".join(f"{shown}/{name.removesuffix(f'/{MANIFEST_FILE}')}" for name in below[:3])
            allowed = f"give {hint or 'a folder of prepared shards'}"
            say_error(f"{shown}: no {MANIFEST_FILE} in it; {allowed}")
            raise typer.Exit(2)
        damage = list(find_damage(folder))
    except FolderError as error:
        say_error(str(error))
        raise typer.Exit(2) from None
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, MemoryError) as error:
        say_error(f"{shown}/{MANIFEST_FILE}: not a readable manifest: {error}")
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps({"folder": shown, "damaged": damage}))
    else:
        for line in damage[:_LISTED]:
            typer.echo(visible(line))
        if len(damage) > _LISTED:
            typer.echo(f"and {len(damage) - _LISTED} more; --json lists them all")
        told = f"{len(damage)} damaged samples; prepare them into a new folder" if damage else "sound"
        typer.echo(f"{shown}: {told}")
    raise typer.Exit(1 if damage else 0)


if __name__ == "__main__":
    sys.exit(call(app_of(main)))
