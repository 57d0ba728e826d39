"""Records on their way from an outbox to its tracking store, one after the other."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.redact import redact
from pipelines.problems import first_line
from pipelines.tracking.outbox import FOLDER, Outbox, is_outbox, server_name
from pipelines.tracking.records import Record, decode, texts
from pipelines.tracking.refusals import is_refusal
from pipelines.tracking.run_names import RunNames, outbox_of

if TYPE_CHECKING:
    from pipelines.tracking.tracker import Tracker

PATIENCE = 60.0  # seconds without a delivery after which nobody waits any longer
_LONGEST_PAUSE = 10.0  # seconds
_SHOWN = 200  # characters of what a store says

Perform = Callable[[Record, list[Any], dict[str, Any]], str | None]


class UndeliveredError(Exception):
    """The store does not take a record, now or ever."""


class NotYetError(Exception):
    """A record names a run that a record of another outbox is still to open."""


@dataclass(frozen=True)
class Server:
    """A tracking store, as the runs of a workdir use it."""

    workdir: Path
    uri: str

    @property
    def name(self) -> str:
        return server_name(self.workdir, self.uri)

    @property
    def outboxes(self) -> Path:
        return self.workdir / FOLDER

    def tracker(self, experiment: str) -> "Tracker":
        """A database has its files beside it; a server knows where to keep its own."""
        from pipelines.tracking.tracker import Tracker

        artifacts = None
        if self.uri.startswith("sqlite:///"):
            artifacts = Path(self.uri.removeprefix("sqlite:///").partition("?")[0]).parent / "mlartifacts"
        return Tracker(self.uri, experiment, artifacts)


def attempt(outbox: Outbox, names: RunNames, tries: int, perform: Perform) -> str | None:
    """Delivers an outbox's next record, or sets aside what the store refuses.

    tries: how often this one was tried, with this time. Returns None when it is done with the record, or
    why it has to be tried again. Raises NotYetError.
    """
    record = outbox.next()
    _check_names(record, outbox, names)
    try:
        args, kwargs = (decode(value, outbox.workdir, names.real) for value in (record.args, record.kwargs))
        run_id = perform(record, args, kwargs)
        if record.name and run_id:
            names.add(record.name, run_id, outbox.server)
        outbox.mark(record, run_id)
    except Exception as error:  # noqa: BLE001 (artifact stores' clients raise what they like)
        if not is_refusal(error, tries):
            return told(_origin(error))
        return _set_aside(record, outbox, told(error))
    return None


def _set_aside(record: Record, outbox: Outbox, refusal: str) -> str | None:
    try:
        outbox.refuse(record, refusal)
    except OSError as error:
        return told(error)
    return None


def _check_names(record: Record, outbox: Outbox, names: RunNames) -> None:
    """Raises NotYetError for a run that is still to be opened by another driver."""
    for text in texts([record.args, record.kwargs]):
        owner = outbox_of(text)
        if owner is None or names.knows(text) or owner == outbox.folder.name:
            continue
        names.refresh()
        if not names.knows(text) and is_outbox(names.root / owner):
            raise NotYetError(f"{owner} is to be delivered first")


def told(error: BaseException) -> str:
    """What an error says, in a line that fits on a screen and holds no secret."""
    text = redact(first_line(error))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _origin(error: BaseException) -> BaseException:
    """What an error was made from: it says in a few words what its wrappers say in many."""
    last = error.args[-1] if error.args else None
    inner = error.__cause__ or error.__context__ or (last if isinstance(last, BaseException) else None)
    return error if inner is None else _origin(inner)


def pause(tries: int) -> float:
    """Seconds until the next try after so many."""
    return min(2.0 ** (tries - 1), _LONGEST_PAUSE)
