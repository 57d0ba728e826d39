"""Ctrl-C and SIGTERM as a wish that the run's loop grants when it can, never as an exception midway."""

import signal
from types import FrameType
from typing import Protocol

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
