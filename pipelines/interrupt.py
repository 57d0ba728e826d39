"""Ctrl-C, SIGTERM and SIGUSR1 (a notice of preemption) as a wish that the run's loop grants when it can."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Protocol

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stop(Protocol):
    """A wish to end: 0 when there is none, 2 when it is urgent."""

    @property
    def count(self) -> int: ...


class StopRequest:
    """Counts requests to stop while it is entered. `arm` again after a library took the handlers."""

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.arm()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def arm(self) -> None:
        for number in _SIGNALS:
            signal.signal(number, self._request)

    def _request(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1


@contextmanager
def apart_from_signals() -> Iterator[None]:
    """Processes started while this is entered get none of the signals that are sent to this process's group.

    `timeout`, batch systems and job control signal whole groups; Ray's processes would end on SIGTERM before
    training has saved itself. Nothing is done on a terminal, where Ctrl-C would miss what is in another group
    (Ray's ignore Ctrl-C anyway), nor where this process leads a session: a leader cannot change its group.
    """
    own = os.getpgrp()
    if os.isatty(0) or os.getsid(0) == os.getpid():
        yield
        return
    with subprocess.Popen(
        ["sleep", "600"], process_group=0
    ) as keeper:  # in whose group this process starts them
        os.setpgid(0, keeper.pid)
        try:
            yield
        finally:
            with suppress(PermissionError):  # everyone else in the former group has ended
                os.setpgid(0, own)
            keeper.kill()
