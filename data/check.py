"""Shards against their manifest: `python -m data.check DIR` names every damaged sample."""

import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer

from data.shards import MANIFEST_FILE, read_manifest

BLOCK = tarfile.BLOCKSIZE


def find_damage(folder: Path) -> Iterator[str]:
    """One line for each sample that is missing, or whose bytes or label differ from the manifest."""
    for row in read_manifest(folder).to_pylist():
        shard = folder / row["shard"]
        if not shard.is_file():
            yield f"{row['key']}: {row['shard']} is missing"
            continue
        with shard.open("rb") as file:
            file.seek(row["offset"] - 3 * BLOCK)  # label header, label, image header, image
            record = file.read(3 * BLOCK + row["size"])
        if len(record) < 3 * BLOCK + row["size"]:
            yield f"{row['key']}: {row['shard']} ends before it"
        elif hashlib.sha256(record[3 * BLOCK :]).hexdigest() != row["sha256"]:
            yield f"{row['key']}: its image in {row['shard']} differs from the manifest"
        elif not _frame_is_sound(record, row):
            yield f"{row['key']}: its label or tar header in {row['shard']} is damaged"


def _frame_is_sound(record: bytes, row: dict[str, Any]) -> bool:
    label = str(row["label"]).encode()
    headers = ((0, f"{row['key']}.cls", len(label)), (2, f"{row['key']}.{row['suffix']}", row["size"]))
    for block, name, size in headers:
        try:
            header = tarfile.TarInfo.frombuf(record[block * BLOCK : (block + 1) * BLOCK], "utf-8", "strict")
        except tarfile.HeaderError:
            return False
        if (header.name, header.size) != (name, size):
            return False
    return record[BLOCK : 2 * BLOCK] == label.ljust(BLOCK, b"\0")


def main(
    folder: Annotated[Path, typer.Argument(help="what data.prepare wrote")],
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Verify shards: exit 0 when sound, 1 when damaged, 2 when there is no manifest."""
    if not (folder / MANIFEST_FILE).is_file():
        below = [str(path.parent) for path in sorted(folder.glob(f"*/{MANIFEST_FILE}"))]
        hint = " or ".join(below) if below else "a folder of prepared shards"
        typer.echo(f"error: {folder}: no {MANIFEST_FILE} in it; give {hint}", err=True)
        raise typer.Exit(2)
    try:
        damage = list(find_damage(folder))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, MemoryError) as error:
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
