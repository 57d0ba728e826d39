"""Scratch files that other processes read, gone when the process that wrote them ends."""

import atexit
import fcntl
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

_PREFIX = "atjem-unpacked-"
_HELD: list[IO[bytes]] = []  # open, hence locked, as long as this process lives


def write_scratch(fill: Callable[[IO[bytes]], None], folder: str | None = None) -> str:
    """The path of a new file in `folder` (the system's temporary one, TMPDIR) that `fill` wrote.

    It is removed at exit. What a killed process left behind goes with the next call: nobody holds its lock.
    """
    place = Path(folder or tempfile.gettempdir())
    _remove_left_behind(place)
    file = _new_locked(place)
    try:
        fill(file)
        file.flush()
    except BaseException:
        os.unlink(file.name)
        file.close()
        raise
    _HELD.append(file)
    atexit.register(_remove, file.name, os.getpid())
    return file.name


def _new_locked(place: Path) -> IO[bytes]:
    while True:
        file = tempfile.NamedTemporaryFile(prefix=_PREFIX, dir=place, delete=False)  # noqa: SIM115
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.path.exists(file.name):  # another process may have tidied up before the lock
            return file
        file.close()


def _remove(path: str, pid: int) -> None:
    if os.getpid() == pid:  # a forked child that exits leaves it to its parent
        Path(path).unlink(missing_ok=True)


def _remove_left_behind(place: Path) -> None:
    for path in place.glob(_PREFIX + "*"):
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
        except OSError:  # held by a living process, or another user's
            continue
