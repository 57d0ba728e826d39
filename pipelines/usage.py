"""Command lines end in exit codes and one-line errors, never in tracebacks or boxes."""

import os
import signal
import sys
from typing import NoReturn

import typer

from data.command_line import call
from pipelines.problems import BadInput

BAD_INPUT, INTERRUPTED = 2, 130


def run_app(app: typer.Typer) -> NoReturn:
    """Runs a command line and ends the process: 2 for bad input, 130 for Ctrl-C, else what it returns."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # MLflow asks when it is imported
    try:
        code = call(app)
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
    sys.exit(code)
