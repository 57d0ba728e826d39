"""The command that brings to MLflow what runs could not: to the server they were for, or to another."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer

from data.redact import redact
from pipelines.commands.options import DONE, FAILED
from pipelines.interrupt import StopRequest
from pipelines.preflight.places import check_tracking
from pipelines.problems import BadInput, Problem
from pipelines.terminal import Terminal
from pipelines.tracking.delivery import Server, told
from pipelines.tracking.leftovers import Delivered, deliver_leftovers, waiting
from pipelines.tracking.outbox import OWN_STORE
from pipelines.usage import INTERRUPTED
from pipelines.workdir.opening import resolve_workdir


def deliver(
    workdir: Annotated[str, typer.Option(metavar="DIR", help="where the runs were made")] = "runs",
    tracking_uri: Annotated[
        str | None,
        typer.Option(metavar="URI", help="MLflow tracking; default: the server that each run was for"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="end stdout with one JSON object")] = False,
) -> int:
    """Bring to MLflow what runs could not deliver because it was away.

    Each run of a workdir keeps what MLflow has not got yet; its own command delivers it too, before it
    does anything else. To the server that it was for goes what is missing, to another one all of the run.
    A run that is still at work delivers by itself, and is left alone.

    \b
    Examples:
      deliver --workdir runs                                     to the servers the runs were for
      deliver --workdir runs --tracking-uri http://HOST:5000     to this one

    Exit codes: 0 done, 1 something is left, 2 bad input, 130 interrupted.
    """
    terminal = Terminal(to_stderr=as_json)
    try:
        servers = _servers(workdir, tracking_uri)
    except BadInput as bad:
        if as_json:
            _print("refused", [], [str(problem) for problem in bad.problems])
        raise
    with StopRequest() as stop:
        found = [own for server in servers for own in _bring(server, terminal, stop, tracking_uri)]
        if not found:
            terminal.say("nothing is left to deliver")
        left = sum(own.left for own in found)
        status = "interrupted" if stop.count and left else "failed" if left else "done"
    if as_json:
        _print(status, found)
    return {"done": DONE, "failed": FAILED, "interrupted": INTERRUPTED}[status]


def _servers(workdir: str, tracking_uri: str | None) -> list[Server]:
    """Where to deliver to. Raises BadInput with every problem."""
    place = resolve_workdir(workdir)
    if not place.is_dir():
        raise BadInput([Problem("--workdir", repr(workdir), "does not exist; give a run's workdir")])
    if tracking_uri is not None:
        uris = [tracking_uri]
    else:
        homes = waiting(place)
        uris = [f"sqlite:///{place / 'mlflow.db'}" if home == OWN_STORE else home for home in homes]
    problems = []
    for uri in uris:
        if "***" in uri:
            allowed = f"records wait for {uri}; give its whole address, or another server's"
            problems.append(Problem("--tracking-uri", "not given", allowed))
        else:
            problems += check_tracking(uri)
    if problems:
        raise BadInput(problems)
    return [Server(place, uri) for uri in uris]


def _bring(
    server: Server, terminal: Terminal, stop: StopRequest, tracking_uri: str | None
) -> Iterator[Delivered]:
    """Delivers to one server, says how it went, and closes runs whose driver is gone."""
    from pipelines.tracking.tracker import TRACKING_ERRORS

    for own in deliver_leftovers(server, lambda: stop.count > 0, anyones=tracking_uri is not None):
        terminal.say(redact(f"{own.experiment}: {own.delivered} records delivered to {server.uri}"), "green")
        if own.refused:
            terminal.say(f"{own.refused} refused, kept in {own.folder}: {own.reason}", "yellow")
        if own.left:
            terminal.say(f"{own.left} left in {own.folder}: {own.reason}", "red")
        else:
            try:
                server.tracker(own.experiment).close_orphans(None)
            except TRACKING_ERRORS as error:
                terminal.say(f"runs that were killed are still open: {told(error)}", "yellow")
        yield own


def _print(status: str, found: list[Delivered], errors: list[str] | None = None) -> None:
    result: dict[str, Any] = {"status": status, "outboxes": [asdict(own) for own in found]}
    if errors is not None:
        result["errors"] = errors
    sys.stdout.write(json.dumps(result) + "\n")
