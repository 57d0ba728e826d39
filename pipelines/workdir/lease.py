"""One run at a time in a workdir on an object store, which knows no locks: a lease that has to be renewed.

Whoever wants it writes an object of its own and lists all: alone, it has the lease; else it takes its object
away and tries again later. Listings of S3 and Google's store show every write before them, so of two that
come at once at least one sees the other. Ages are told by the store's clock.
"""

import json
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import uuid4

import psutil

from pipelines.workdir.remote import Entry, Remote, RemoteError

FOLDER = ".lease"
EXPIRES = 60.0  # seconds after which a lease that was not renewed is anybody's
_RENEWED = 10.0
_DOUBTFUL = 0.75  # share of that after which its holder looks again: stores tell times in whole seconds
_POLL_SECONDS = 2.0


class Lease:
    """One process's claim to a workdir."""

    def __init__(self, remote: Remote) -> None:
        self.remote, self.name = remote, f"{uuid4().hex}.json"
        self.said = json.dumps(_process()).encode()
        self.renewed = _now()
        self.ended = Event()

    def claim(self) -> str | None:
        """None when it is ours now; else who holds it. Claims of runs that are gone are taken away."""
        self._write()
        entries = self.remote.entries(FOLDER)
        others = [name for name in entries if name != self.name and self._is_alive(name, entries)]
        if not others:
            return None
        self.release()
        return _named(_read(self.remote, others[0]))

    def keep(self, on_lost: Callable[[str], None]) -> None:
        """Renews it until it is given back, or another has it since it could not be renewed in time."""
        while not self.ended.wait(_RENEWED):
            before = self.renewed
            with suppress(RemoteError):  # it is tried again, and after it has expired claimed anew
                if not _is_doubtful(before):
                    self._write()  # may take long
                if _is_doubtful(before) and (other := self._taken_by()):
                    on_lost(other)
                    return

    def release(self) -> None:
        with suppress(RemoteError):  # then it expires
            self.remote.hasty.remove(f"{FOLDER}/{self.name}")

    def _taken_by(self) -> str | None:
        """Who keeps it by now; who waits for it is seen for a moment only."""
        for pause in (1.0, 1.0, 0.0):
            if (other := self.claim()) is None:
                break
            time.sleep(pause)
        return other

    def _write(self) -> None:
        began = _now()
        self.remote.write(f"{FOLDER}/{self.name}", self.said)
        self.renewed = began

    def _is_alive(self, name: str, entries: dict[str, Entry]) -> bool:
        age = (entries[self.name].mtime_ns - entries[name].mtime_ns) / 1e9 if self.name in entries else 0.0
        if age < EXPIRES and not _is_gone(_read(self.remote, name)):
            return True
        self.remote.remove(f"{FOLDER}/{name}")
        return False


def _is_doubtful(renewed: float) -> bool:
    return _now() - renewed >= _DOUBTFUL * EXPIRES


@contextmanager
def lease(
    remote: Remote,
    on_wait: Callable[[str], None],
    give_up: Callable[[], bool],
    on_lost: Callable[[str], None],
) -> Iterator[bool]:
    """Holds the workdir while entered. Yields False when `give_up` said so before it was free.

    `on_wait` is called once with whom it waits for; `on_lost`, in a thread, when the store was out of reach
    for so long that another run took the workdir. Raises RemoteError.
    """
    own, waited = Lease(remote), False
    while other := own.claim():
        if not waited:
            on_wait(other)
            waited = True
        again = time.monotonic() + _POLL_SECONDS * random.uniform(1, 2)  # so that two do not keep step
        while time.monotonic() < again:
            if give_up():
                yield False
                return
            time.sleep(0.2)
    thread = Thread(target=own.keep, args=(on_lost,), daemon=True)
    thread.start()
    try:
        yield True
    finally:
        own.ended.set()
        thread.join()
        own.release()


def lease_holder(remote: Remote) -> str | None:
    """Who works in the workdir now, by this machine's clock (nothing is written); None when nobody does."""
    for name, entry in remote.entries(FOLDER).items():
        said = _read(remote, name)
        if time.time() - entry.mtime_ns / 1e9 < EXPIRES and not _is_gone(said):
            return _named(said)
    return None


def _read(remote: Remote, name: str) -> dict[str, Any]:
    """What a claim says of its process; nothing where it is gone meanwhile or no claim."""
    try:
        said = json.loads(remote.read(f"{FOLDER}/{name}"))
    except (FileNotFoundError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _process() -> dict[str, Any]:
    process = psutil.Process()
    return {
        "host": socket.gethostname(),
        "process": process.pid,
        "started": process.create_time(),
        "machine": _machine(),
    }


def _named(said: dict[str, Any]) -> str:
    return f"{said.get('process', 'unknown')} on {said.get('host', 'an unknown host')}"


def _is_gone(said: dict[str, Any]) -> bool:
    """True when the process was one of this machine's and no longer is."""
    if not said or said.get("machine") != _machine() or not _machine():
        return False
    try:
        return abs(psutil.Process(said["process"]).create_time() - said["started"]) > 2
    except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
        return True


def _machine() -> str:
    """This boot of this machine and its processes' numbers (containers have their own); '' where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _now() -> float:
    """Seconds that also pass while the machine sleeps, where the system counts them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
