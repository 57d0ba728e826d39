"""What became of a list of downloads: counts, a progress bar or lines, and a file of those that failed."""

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

FAILED_FILE = "failed.tsv"
_LINE_SECONDS = 5.0  # between lines, where there is no terminal


@dataclass
class Tally:
    """`failed` maps a name to its reason; `trouble` is why the rest is not tried; `away_in_a_row` counts
    the last failures for want of a server."""

    num_wanted: int
    num_there: int = 0
    num_fetched: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    away_in_a_row: int = 0
    trouble: str = ""

    @property
    def num_present(self) -> int:
        return self.num_there + self.num_fetched

    def write_failed(self, folder: Path) -> None:
        """A name and a reason a line, of this command alone; no file when nothing failed."""
        path, new = folder / FAILED_FILE, folder / f".{FAILED_FILE}"
        if not self.failed:
            path.unlink(missing_ok=True)
            return
        lines = [f"{name}\t{' '.join(reason.split())}\n" for name, reason in list(self.failed.items())]
        new.write_text("".join(lines), "utf-8")
        os.replace(new, path)


class Watch:
    """Shows a tally on stderr whenever it is called: a bar on a terminal, else a line every few seconds."""

    def __init__(self, tally: Tally) -> None:
        self._tally, self._began, self._said = tally, time.monotonic(), time.monotonic()
        columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
        self._bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self._task = self._bar.add_task("", total=tally.num_wanted)

    def __enter__(self) -> "Watch":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self()
        self._bar.stop()

    def __call__(self) -> None:
        num_failed, now = len(self._tally.failed), time.monotonic()
        done = self._tally.num_present + num_failed
        failed = f"{num_failed:,} failed" if num_failed else ""
        self._bar.update(self._task, completed=done, description=failed)
        if self._bar.disable and now - self._said >= _LINE_SECONDS:
            self._said = now
            per_second = self._tally.num_fetched / (now - self._began)
            what = ", ".join(filter(None, (f"{per_second:.1f} images a second", failed)))
            typer.echo(f"{done:,} of {self._tally.num_wanted:,} images: {what}", err=True)
