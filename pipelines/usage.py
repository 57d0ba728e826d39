"""Command lines end in exit codes and one-line errors, never in tracebacks or boxes."""

import os
import signal
import sys
from typing import NoReturn

import typer

from pipelines.problems import BadInput, Problem

BAD_INPUT, INTERRUPTED = 2, 130
# click's UsageError, wherever this version of typer keeps it
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def run_app(app: typer.Typer) -> NoReturn:
    """Runs a command line and ends the process: 2 for bad input, 130 for Ctrl-C, else what it returns."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # MLflow asks when it is imported
    try:
        code = app(standalone_mode=False)
    except BadInput as bad:
        for problem in bad.problems:
            typer.echo(str(problem), err=True)
        code = BAD_INPUT
    except (KeyboardInterrupt, typer.Abort, SystemExit) as end:
        # typer turns Ctrl-C into an exit, and Ray, while it starts, SIGTERM into one with its number
        if isinstance(end, SystemExit) and end.code not in (INTERRUPTED, signal.SIGTERM):
            raise
        typer.echo("interrupted before any stage began", err=True)
        code = INTERRUPTED
    except _UsageError as error:
        message = str(error.format_message()).rstrip(".")  # type: ignore[attr-defined]
        typer.echo(str(Problem("command line", message, "--help lists what is allowed")), err=True)
        code = BAD_INPUT
    sys.exit(code or 0)
