"""A command begins with what others have left for its tracking store, and ends with what it leaves."""

import shlex
import time

from pipelines.interrupt import Stop
from pipelines.problems import BadInput, Problem
from pipelines.terminal import Terminal
from pipelines.tracking.courier import Courier
from pipelines.tracking.delivery import PATIENCE, Server
from pipelines.tracking.leftovers import deliver_leftovers, waiting
from pipelines.tracking.outbox import others_at_work

_LAST_SECONDS = 10.0  # that processes of trials get to end, once Ray has
_POLL_SECONDS = 0.3


def bring_leftovers(server: Server, terminal: Terminal, stop: Stop) -> None:
    """Delivers what dead drivers have left for the store. Raises BadInput when it stops answering."""
    for found in deliver_leftovers(server, lambda: stop.count > 0):
        if found.left and not stop.count:
            given = f"{server.uri} does not take what an earlier run has left in {found.folder}"
            raise BadInput([Problem("--tracking-uri", given, found.reason)])
        if found.delivered:
            terminal.say(f"MLflow now has {found.delivered} records that an earlier run had left for it")
        if found.refused:
            terminal.say(f"beware: MLflow refuses {found.refused} records: {found.folder}", "yellow")
    for other, num in waiting(server.workdir).items():
        terminal.say(f"beware: {num} records for {other} wait; to import them: {command(server)}", "yellow")


def wait_for_others(courier: Courier) -> None:
    """Until no other process writes in the workdir, or for a while: processes take time to end."""
    deadline = time.monotonic() + _LAST_SECONDS
    while others_at_work(courier.outbox) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def settle(courier: Courier, terminal: Terminal, stop: Stop, again: str) -> int:
    """Waits a while for what is still to be delivered; says what stays behind, and how to import it.

    again: the command that goes on, and first delivers what this one leaves. Returns how many records
    stay behind.
    """
    asked, outbox = stop.count, courier.outbox
    if courier.away:
        terminal.say(
            f"waiting up to {PATIENCE:.0f} s for MLflow: {outbox.pending} records are to be delivered"
        )
    left = courier.wait(lambda: stop.count > asked)
    if not left:  # the store answers: then what a trial's process could not deliver, too
        left = sum(own.left for own in deliver_leftovers(courier.server, lambda: stop.count > asked))
    if left:
        kept = f"{left} records are not in MLflow; they are kept in {courier.server.outboxes}"
        terminal.say(f"beware: {kept}. To import them: {again}, or: {command(courier.server)}", "yellow")
    if outbox.refused:
        terminal.say(f"beware: MLflow refuses {outbox.refused} records: {outbox.refused_file}", "yellow")
    return left


def command(server: Server) -> str:
    """The command that imports what waits in a workdir."""
    place = f"python -m pipelines deliver --workdir {shlex.quote(str(server.workdir))}"
    return f"{place} (to another server: --tracking-uri URI)"
