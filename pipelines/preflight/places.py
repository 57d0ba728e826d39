"""Where a run writes and what it asks: the workdir, the tracking store, the Ray cluster."""

import shutil
import socket
import sqlite3
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlparse, urlunparse
from urllib.request import urlopen
from uuid import uuid4

from pipelines.problems import Problem
from pipelines.settings import Settings
from pipelines.workdir.remote import REACHABLE, Remote

_SPACE = 500 << 20  # bytes that any run may need beside its data
_FEATURE_BYTES = 12_500  # of an image, under Inception
_CONNECT_SECONDS = 5


def check_place(workdir: Path, settings: Settings, where: str = "--workdir") -> list[Problem]:
    """The workdir, or its cache on this machine, can be written and has room. where: what names it."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".probe-{uuid4().hex[:8]}"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        reason = "is a file" if workdir.is_file() else f"not writable ({error.strerror})"
        return [Problem(where, str(workdir), f"{reason}; give another folder")]
    needed, free = _needed_bytes(settings), shutil.disk_usage(workdir).free
    if free < needed:
        asked = f"the run needs about {_megabytes(needed)}"
        given = f"{workdir} has {_megabytes(free)} free"
        return [Problem(where, given, f"{asked}; free some or use another")]
    return []


def _needed_bytes(settings: Settings) -> int:
    pixels = settings.model.channels * settings.data.image_size**2
    return _SPACE + settings.sample.num_samples * (2 * pixels + _FEATURE_BYTES)


def _megabytes(num_bytes: float) -> str:
    return f"{num_bytes / 2**20:,.0f} MB"


def check_remote(remote: Remote, tracking_uri: str | None) -> list[Problem]:
    """An object store can be read and written, and runs are tracked somewhere else."""
    problems = []
    if reason := remote.unusable() or remote.unwritable():
        problems.append(Problem("--workdir", remote.address, f"{reason}; {REACHABLE}"))
    if tracking_uri is None:
        allowed = (
            "an object store holds no database: give the address of an MLflow server, http(s)://HOST:PORT"
        )
        problems.append(Problem("--tracking-uri", f"not given, with --workdir {remote.address}", allowed))
    return problems


def check_tracking(uri: str) -> list[Problem]:
    """A tracking server answers at all; a SQLite file can be written, or made."""
    try:
        parsed = urlparse(uri)
        if parsed.scheme == "sqlite":
            return _check_sqlite(uri)
        if parsed.scheme not in ("http", "https"):
            allowed = "give http(s)://HOST:PORT, sqlite:////FILE or another address that MLflow knows"
            return [] if parsed.scheme and parsed.netloc else [Problem("--tracking-uri", repr(uri), allowed)]
        reason = unanswered(urlunparse(parsed._replace(netloc=parsed.netloc.rpartition("@")[2])))
    except ValueError as error:
        reason = str(error)
    if not reason:
        return []
    return [
        Problem("--tracking-uri", uri, f"no MLflow server answers there ({reason}); start it or give another")
    ]


def _check_sqlite(uri: str) -> list[Problem]:
    path = Path(uri.removeprefix("sqlite:///"))
    allowed = ""
    if not uri.startswith("sqlite:///") or path == Path():
        allowed = "give a file: sqlite:///relative/path or sqlite:////absolute/path"
    elif path.is_dir():
        allowed = "is a folder; give a file"
    elif path.exists():
        allowed = _unreadable_database(path)
    elif not path.parent.is_dir() and path.parent.parent.is_dir() is False:
        allowed = f"{path.parent} does not exist; make it first"
    return [Problem("--tracking-uri", uri, allowed)] if allowed else []


def _unreadable_database(path: Path) -> str:
    try:
        with closing(sqlite3.connect(path, timeout=_CONNECT_SECONDS)) as database:
            database.execute("BEGIN IMMEDIATE").close()
            database.rollback()
    except sqlite3.Error as error:
        return f"not a database that can be written ({error}); move it away or give another"
    return ""


def unanswered(url: str) -> str:
    """Why no web server answers at a URL; empty when one does, whatever it says."""
    try:
        with urlopen(url, timeout=_CONNECT_SECONDS):
            return ""
    except HTTPError:
        return ""
    except (OSError, HTTPException) as error:
        return str(getattr(error, "reason", None) or error)


def check_cluster(address: str | None) -> list[Problem]:
    """Something listens at a Ray cluster's address; Ray itself would wait for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():  # 'auto', or an address that Ray will refuse by itself
        return []
    try:
        with socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS):
            return []
    except OSError as error:
        reason = error.strerror or str(error)
        return [Problem("--ray-address", str(address), f"no Ray cluster answers there ({reason})")]
