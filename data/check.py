"""Shards against their manifest: `python -m data.check DIR` names every damaged sample."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from data.shards import MANIFEST_FILE, read_manifest


def find_damage(folder: Path) -> Iterator[str]:
    """One line for each sample whose bytes are missing or differ from the manifest's sha256."""
    for row in read_manifest(folder).to_pylist():
        shard = folder / row["shard"]
        if not shard.is_file():
            yield f"{row['key']}: {row['shard']} is missing"
            continue
        with shard.open("rb") as file:
            file.seek(row["offset"])
            payload = file.read(row["size"])
        if len(payload) < row["size"]:
            yield f"{row['key']}: {row['shard']} ends before it"
        elif hashlib.sha256(payload).hexdigest() != row["sha256"]:
            yield f"{row['key']}: its bytes in {row['shard']} differ from the manifest"


def main(
    folder: Annotated[Path, typer.Argument(help="what data.prepare wrote")],
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Verify shards: exit 0 when sound, 1 when damaged, 2 when there is no readable manifest."""
    if not (folder / MANIFEST_FILE).is_file():
        typer.echo(f"error: {folder}: no {MANIFEST_FILE} in it; give a folder of prepared shards", err=True)
        raise typer.Exit(2)
    try:
        damage = list(find_damage(folder))
    except (pa.ArrowException, KeyError) as error:
        typer.echo(f"error: {folder / MANIFEST_FILE}: not a readable manifest: {error}", err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "damaged": damage}))
    else:
        for line in damage:
            typer.echo(line)
        typer.echo(f"{folder}: {len(damage)} damaged samples" if damage else f"{folder}: sound")
    raise typer.Exit(1 if damage else 0)


if __name__ == "__main__":
    typer.run(main)
