"""Signals are counted, and handlers restored."""

import os
import signal

from pipelines.interrupt import StopRequest


def test_stop_requests_are_counted_and_handlers_restored():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.count == 2
    assert signal.getsignal(signal.SIGTERM) == before
