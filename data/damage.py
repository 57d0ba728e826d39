"""What the samples of a shard differ in from their rows in the manifest."""

import hashlib
import tarfile

from data.folders import Folder
from data.shards import Row

_BLOCK = tarfile.BLOCKSIZE


def shard_damage(shards: Folder, rows: list[Row], *, own: bool) -> list[str]:
    """One line for each of a shard's samples that is missing or altered.

    rows: all of the shard's. own: it was written here, so that labels and headers are known to the byte.
    """
    name = rows[0]["shard"]
    before = 3 * _BLOCK if own else 0  # label header, label, image header, image
    length = shards.size(name)
    if length is None:
        return [f"{row['key']}: {name} is missing" for row in rows]
    found = []
    with shards.open(name) as file:
        for row in rows:
            offset, size = row["offset"], row["size"]
            if offset is None or size is None or offset < before or size < 0:
                found.append(f"{row['key']}: the manifest gives it an impossible place in {name}")
                continue
            if offset + size > length:
                found.append(f"{row['key']}: {name} ends before it")
                continue
            file.seek(offset - before)
            record = file.read(before + size)
            if hashlib.sha256(record[before:]).hexdigest() != row["sha256"]:
                found.append(f"{row['key']}: its image in {name} differs from the manifest")
            elif own and not _frame_is_sound(record, row):
                found.append(f"{row['key']}: its label or tar header in {name} is damaged")
    if own and not found and length < _end(rows[-1]):
        found.append(f"{rows[-1]['key']}: the end of {name} behind it is missing")
    return found


def _end(row: Row) -> int:
    """Where a shard ends behind its last image: two empty blocks."""
    return int(row["offset"] + (-(-row["size"] // _BLOCK) + 2) * _BLOCK)


def _frame_is_sound(record: bytes, row: Row) -> bool:
    label = str(row["label"]).encode()
    headers = ((0, f"{row['key']}.cls", len(label)), (2, f"{row['key']}.{row['suffix']}", row["size"]))
    for block, name, size in headers:
        try:
            header = tarfile.TarInfo.frombuf(record[block * _BLOCK : (block + 1) * _BLOCK], "utf-8", "strict")
        except tarfile.HeaderError:
            return False
        if (header.name, header.size) != (name, size):
            return False
    return record[_BLOCK : 2 * _BLOCK] == label.ljust(_BLOCK, b"\0")
