"""Files between a machine and an object store: described by size and sha256, checked when they come."""

import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.files import file_digest
from pipelines.workdir.remote import Remote, RemoteError

Described = Mapping[str, Mapping[str, Any]]


class DamagedError(RemoteError):
    """An object is not what was written."""


def files_below(folder: Path) -> dict[str, Path]:
    """All files in a folder by their names below it, sorted."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def describe(files: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    return {name: {"size": path.stat().st_size, "sha256": file_digest(path)} for name, path in files.items()}


def send(remote: Remote, below: str, files: Mapping[str, Path]) -> None:
    """Several at once, in no order: what makes them count is written when this has returned."""
    remote.each(lambda name: remote.put(files[name], f"{below}/{name}"), files)


def bring(remote: Remote, below: str, files: Described, folder: Path) -> None:
    """Downloads described files into a folder. Raises DamagedError, RemoteError when there is no room."""
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = sum(entry["size"] for entry in files.values()), shutil.disk_usage(folder).free
    if needed > free:
        told = f"{folder} has {free / 1e6:,.0f} MB free, and {below} takes {needed / 1e6:,.0f} MB"
        raise RemoteError(f"{told}; free some, or name another folder by ATJEM_CACHE")

    def one(name: str) -> None:
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise DamagedError(f"{remote.address}/{below}: names the file {name!r}, outside itself")
        try:
            found = remote.get(f"{below}/{name}", folder / name)
        except FileNotFoundError:
            raise DamagedError(f"{remote.address}/{below}/{name}: is missing") from None
        if found != files[name]["sha256"]:
            raise DamagedError(f"{remote.address}/{below}/{name}: its contents are not what was written")

    remote.each(one, files)
