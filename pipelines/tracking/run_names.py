"""Runs that were named before their store knew them: which id each has got since."""

from pathlib import Path
from typing import Any

from pipelines.tracking.records import json_line, read_lines

RUNS_FILE = "runs.jsonl"
PROGRESS_FILE = "progress.jsonl"
_NEW = "new-"


def new_name(outbox: str, number: int) -> str:
    """For the run that a record of an outbox opens."""
    return f"{_NEW}{outbox}-{number}"


def outbox_of(text: str) -> str | None:
    """The outbox whose record opens the run of this name; None for what is no such name."""
    return text.removeprefix(_NEW).rpartition("-")[0] if text.startswith(_NEW) else None


class RunNames:
    """Names, and ids of other stores, of the runs of a workdir, translated for one store."""

    def __init__(self, root: Path, server: str) -> None:
        """root: the folder that holds a workdir's outboxes."""
        self.root, self.server = root, server
        self._ids: dict[str, str] = {}  # by name
        self._names: dict[str, str] = {}  # by id, of any store
        self.refresh()

    def real(self, text: str) -> str:
        """The store's id of the run that a text stands for; the text itself when it stands for none."""
        return self._ids.get(self._names.get(text, text), text)

    def knows(self, name: str) -> bool:
        return name in self._ids

    def add(self, name: str, run_id: str, server: str) -> None:
        self._names[run_id] = name
        if server == self.server:
            self._ids[name] = run_id

    def refresh(self) -> None:
        """Reads what other drivers of the workdir have noted."""
        for file in (self.root / RUNS_FILE, *sorted(self.root.glob(f"*/{PROGRESS_FILE}"))):
            for entry in read_lines(file):
                if "name" in entry:
                    self.add(entry["name"], entry["id"], entry["server"])


def remember(root: Path, entries: list[dict[str, Any]]) -> None:
    """Notes what an outbox that is about to be removed knows of runs."""
    if entries:
        with (root / RUNS_FILE).open("ab") as file:
            file.write(b"".join(map(json_line, entries)))
