"""One run at a time in a workdir: a second one waits, and then finds what the first has finished."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_POLL_SECONDS = 0.5


@contextmanager
def locked(workdir: Path, on_wait: Callable[[str], None], give_up: Callable[[], bool]) -> Iterator[bool]:
    """Holds the workdir's lock while entered; the system frees it when a process dies.

    `on_wait` is called once with the holder's process id if there is one to wait for. Yields False when
    `give_up` said so before the lock was free.
    """
    with (workdir / ".lock").open("a+") as file:
        waited = False
        while not _try_lock(file.fileno()):
            if not waited:
                file.seek(0)
                on_wait(file.read().strip() or "unknown")
                waited = True
            if give_up():
                yield False
                return
            time.sleep(_POLL_SECONDS)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield True


def hold(file: Path) -> IO[str] | None:
    """Takes a lock that the system frees when the file is closed; None when another process has it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    opened = file.open("a")
    if _try_lock(opened.fileno()):
        return opened
    opened.close()
    return None


def holder(workdir: Path) -> str | None:
    """The process id of a run that works in the workdir now; None when there is none."""
    try:
        with (workdir / ".lock").open("r") as file:
            return None if _try_lock(file.fileno()) else file.read().strip() or "unknown"
    except OSError:
        return None


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
