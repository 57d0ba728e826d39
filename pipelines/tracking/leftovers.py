"""What drivers that are gone have not delivered, brought to its tracking store or to another."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from pipelines.tracking.delivery import PATIENCE, NotYetError, Server, UndeliveredError, attempt, pause
from pipelines.tracking.outbox import Outbox, outbox_folders
from pipelines.tracking.run_names import RunNames


@dataclass(frozen=True)
class Delivered:
    """What became of one outbox: how many records were delivered now, refused, and are left, and why."""

    folder: str
    experiment: str
    meant_for: str
    delivered: int
    refused: int
    left: int
    reason: str


def deliver_leftovers(
    server: Server, give_up: Callable[[], bool], *, anyones: bool = False, patience: float = PATIENCE
) -> list[Delivered]:
    """Delivers what dead drivers of a workdir have left, the oldest first.

    anyones: also what was meant for other stores; of the runs that are told of there, all is delivered.
    patience: seconds without a delivery before the rest is left.
    """
    boxes = list(_left_behind(server, anyones=anyones))
    before = [box.done for box in boxes]
    reason = ""
    try:
        _deliver_all(boxes, server, give_up, patience)
    except UndeliveredError as error:
        reason = str(error)
    finally:
        for box in boxes:
            box.close()
    return [
        Delivered(
            str(box.folder),
            box.experiment,
            box.home,
            delivered=box.done - done,
            refused=box.refused,
            left=box.pending,
            reason=reason if box.pending else box.refusal,
        )
        for box, done in zip(boxes, before, strict=True)
    ]


def waiting(workdir: Path) -> dict[str, int]:
    """Numbers of records that dead drivers have left, by the store that they are for."""
    found: Counter[str] = Counter()
    for folder in outbox_folders(workdir):
        if (box := Outbox.left_behind(folder)) is not None:
            found[box.home] += box.pending
            box.close()
    return dict(+found)


def _left_behind(server: Server, *, anyones: bool) -> Iterator[Outbox]:
    """Open outboxes that a store is to get something from; one that its own store has all of is removed.

    Another store may take what its own has refused.
    """
    for folder in outbox_folders(server.workdir):
        box = Outbox.left_behind(folder)
        if box is None:
            continue
        if box.home == server.name and box.pending:
            yield box
        elif box.home != server.name and anyones and (box.pending or box.refused):
            box.turn_to(server.name)
            yield box
        else:
            box.close()


def _deliver_all(boxes: list[Outbox], server: Server, give_up: Callable[[], bool], patience: float) -> None:
    """Raises UndeliveredError, also when it was to give up."""
    names = RunNames(server.outboxes, server.name)
    waits: str | None = ""
    while waits is not None:  # one outbox may hold what another waits for
        done, waits = sum(box.done for box in boxes), None
        for box in boxes:
            try:
                _deliver(box, names, server, give_up, patience)
            except NotYetError as error:
                waits = str(error)
        if waits is not None and sum(box.done for box in boxes) == done:
            raise UndeliveredError(waits)


def _deliver(
    box: Outbox, names: RunNames, server: Server, give_up: Callable[[], bool], patience: float
) -> None:
    tracker = server.tracker(box.experiment)
    perform = partial(tracker.perform, driver=box.driver)
    while box.pending:
        since = time.monotonic()
        for tries in count(1):
            if give_up():
                raise UndeliveredError("interrupted")
            if (reason := attempt(box, names, tries, perform)) is None:
                break
            if time.monotonic() - since > patience:
                raise UndeliveredError(reason)
            time.sleep(pause(tries))
