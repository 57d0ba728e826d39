"""Between a driver, which does not wait, and its tracking store, which gets everything, in order, once."""

import threading
import time
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol

from pipelines.tracking.delivery import PATIENCE, NotYetError, Server, UndeliveredError, attempt, pause
from pipelines.tracking.leftovers import deliver_leftovers
from pipelines.tracking.outbox import Outbox
from pipelines.tracking.records import Record
from pipelines.tracking.run_names import RunNames, outbox_of

if TYPE_CHECKING:
    from pipelines.tracking.tracker import Tracker

_ID_SECONDS = 10.0  # that a run which starts waits for its id, while the store answers
_SAID_SECONDS = 10.0  # between lines about what is still to be delivered
_END_SECONDS = 1.0  # that a try gets to end
_FIRST_SECONDS = 5.0  # of tries before anything has begun
_P = ParamSpec("_P")


class Say(Protocol):
    """`pipelines.terminal.Terminal.say`."""

    def __call__(self, text: str, style: str | None = None) -> None: ...


class Courier:
    """Delivers what a driver has to tell: until `start` at once, or with UndeliveredError; then by a thread.

    Calls are the tracker's methods. What they are given is written down, without secrets; files that no
    artifact keeps are copied.
    """

    def __init__(self, server: Server, experiment: str, say: Say) -> None:
        self.server, self.say = server, say
        self.tracker: Tracker = server.tracker(experiment)
        self.outbox = Outbox.new(server.workdir, server.name, experiment)
        self.names = RunNames(server.outboxes, server.name)
        self.away, self._started = False, False
        self._heard: set[str] = set()  # names of runs that were given away in place of ids
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._deliver_all, name="courier", daemon=True)
        self._refusals: set[str] = set()  # that were said
        self._gone_at, self._back_at = 0, 0  # records, when the store went and when it came back

    def __enter__(self) -> "Courier":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the thread. What is not delivered stays, unless nothing has begun."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        if not self._started:
            self.outbox.discard()
        elif self._thread.is_alive():
            self._thread.join(_END_SECONDS)
        if not self._thread.is_alive():  # else it is in the middle of a request, and ends with the process
            self.outbox.close(named=self._heard)

    def start(self) -> None:
        self._started = True
        self._thread.start()

    def send(self, call: Callable[_P, object], *args: _P.args, **kwargs: _P.kwargs) -> None:
        """Has the tracker do this once everything before it is done."""
        self._put(call, args, kwargs, opens_run=False)

    def open(self, call: Callable[_P, str], *args: _P.args, **kwargs: _P.kwargs) -> str:
        """Has a run opened. Returns its id; a name that will do as well while the store does not answer."""
        record = self._put(call, args, kwargs, opens_run=True)
        assert record.name is not None
        with self._changed:
            self._changed.wait_for(lambda: self.away or self.outbox.done > record.number, _ID_SECONDS)
        if not self.names.knows(record.name):
            self._heard.add(record.name)
        return self.names.real(record.name)

    def real(self, run_id: str | None) -> str | None:
        """The store's id of a run, if it is known by now, for what `open` has returned, here or elsewhere."""
        if run_id and outbox_of(run_id) and not self.names.knows(run_id):
            self.names.refresh()
        return run_id and self.names.real(run_id)

    def wait(self, give_up: Callable[[], bool], seconds: float = PATIENCE) -> int:
        """Until all is delivered, or for so many seconds without a delivery. Returns how many are left."""
        done, since, said = self.outbox.done, time.monotonic(), time.monotonic()
        while self.outbox.pending and not give_up():
            with self._changed:
                self._changed.wait(0.2)
            now = time.monotonic()
            if self.outbox.done > done:
                done, since = self.outbox.done, now
            if now - since > seconds:
                break
            if now - said > _SAID_SECONDS:
                said = now
                self.say(f"{self.outbox.pending} records still to be delivered to MLflow")
        return self.outbox.pending

    def _put(self, call: Callable[..., object], args: Any, kwargs: Any, *, opens_run: bool) -> Record:
        with self._changed:
            record = self.outbox.append(call.__name__, args, kwargs, opens_run=opens_run)
            self._changed.notify_all()
        if not self._started:
            self._deliver_at_once()
        return record

    def _deliver_at_once(self) -> None:
        """Raises UndeliveredError when the store does not take it."""
        refused, deadline = self.outbox.refused, time.monotonic() + _FIRST_SECONDS
        for tries in count(1):
            if (reason := attempt(self.outbox, self.names, tries, self._perform)) is None:
                break
            if time.monotonic() > deadline:
                raise UndeliveredError(reason)
            time.sleep(pause(tries))
        if self.outbox.refused > refused:
            raise UndeliveredError(self.outbox.refusal)

    def _perform(self, record: Record, args: list[Any], kwargs: dict[str, Any]) -> str | None:
        if record.call == "fail_trial":  # what the trial itself had to tell comes first
            for found in deliver_leftovers(self.server, self._closing.is_set, patience=0):
                if found.left:
                    raise UndeliveredError(found.reason)
        return self.tracker.perform(record, args, kwargs, self.outbox.driver)

    def _deliver_all(self) -> None:
        """The thread's work."""
        while not self._closing.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self.outbox.pending or self._closing.is_set())
            if not self._closing.is_set():
                self._deliver_next()

    def _deliver_next(self) -> None:
        refused = self.outbox.refused
        for tries in count(1):
            try:
                if (reason := attempt(self.outbox, self.names, tries, self._perform)) is None:
                    break
                self._went(reason)
            except NotYetError:
                deliver_leftovers(self.server, self._closing.is_set, patience=0)
            if self._closing.wait(pause(tries)):
                return
        self._came()
        if self.outbox.refused > refused and self.outbox.refusal not in self._refusals:
            self._refusals.add(self.outbox.refusal)
            kept = f"MLflow refuses a record, kept in {self.outbox.refused_file}"
            self.say(f"{kept}: {self.outbox.refusal}", "yellow")
        with self._changed:
            self._changed.notify_all()

    def _went(self, reason: str) -> None:
        """Says once that the store does not answer."""
        with self._changed:
            news, self.away = not self.away, True
            self._changed.notify_all()
        if news and not self._back_at:
            self._gone_at = self.outbox.done
            where = f"what is logged is kept in {self.outbox.folder} until it does"
            self.say(f"MLflow does not answer ({reason}); the run goes on, {where}", "yellow")

    def _came(self) -> None:
        """Says once that the store answers again, when it has what had waited."""
        if self.away:
            self.away, self._back_at = False, self.outbox.count
        if self._back_at and self.outbox.done >= self._back_at:
            num, self._back_at = self.outbox.done - self._gone_at, 0
            self.say(f"MLflow answers again: {num} records that had waited are delivered")
