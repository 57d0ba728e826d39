"""Files that are there whole or not at all."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any
from uuid import uuid4


def path_exists(path: str | Path) -> bool:
    """Also False for a path that no file can have."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Whole or not at all: a temporary file, synced, then renamed."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def sync_files(folder: Path) -> None:
    """Makes everything in a folder outlive a loss of power."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder outlive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None when there is no such file or it is not one."""
    value = _parse(path)
    return value if isinstance(value, dict) else None


def read_json_list(path: Path) -> list[Any] | None:
    """The list in a JSON file; None when there is no such file or it is not one."""
    value = _parse(path)
    return value if isinstance(value, list) else None


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
