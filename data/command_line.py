"""Command lines end in exit codes and one-line errors, never in boxes."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import typer

from data.redact import redact
from data.visible import visible

# click's UsageError, wherever this version of typer keeps it
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def app_of(main: Callable[..., Any]) -> typer.Typer:
    """A command line of one command."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(main)
    return app


def call(app: typer.Typer) -> int:
    """Runs a command line. Returns its exit code, with one line on stderr where it could not do its work.

    2: options that are not understood; 1: a full disk, a folder that may not be written, a broken pipe.
    """
    try:
        return int(app(standalone_mode=False) or 0)
    except _UsageError as error:
        message = str(error.format_message()).rstrip(".")  # type: ignore[attr-defined]
        say_error(" ".join(f"command line: {message}; --help lists what is allowed".split()))
        return 2
    except OSError as error:
        say_error(str(error))
        with suppress(OSError):  # what is still to be printed may have nowhere to go
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def say_error(text: str) -> None:
    """One line on stderr, without secrets, and without anything that would act on a terminal."""
    typer.echo(f"error: {visible(redact(text))}", err=True)
