"""What a driver has to tell the tracking store, on disk until the store has it, in order.

<workdir>/outbox/<driver>/about.json       the store and the experiment that they are for, and the driver
                          lock             held by whoever writes or delivers them
                          records.jsonl    one a line; all of them stay until the last is delivered
                          progress.jsonl   how far each store has them, and the runs that it opened for them
                          refused.jsonl    those that a store will not take, and why
                          files/           copies of files that no artifact keeps
<workdir>/outbox/runs.jsonl                ids of runs that were named before their store knew them
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Container, Iterable, Mapping
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from data.redact import redact
from pipelines.files import read_json, write_json
from pipelines.tracking.driver import driver_name
from pipelines.tracking.records import Record, encode, json_line, read_lines
from pipelines.tracking.run_names import PROGRESS_FILE, new_name, remember
from pipelines.workdir.lock import hold

FOLDER = "outbox"
OWN_STORE = "sqlite:///mlflow.db"  # the workdir's, wherever the workdir lies
_ABOUT, _LOCK, _RECORDS, _REFUSED, _FILES = "about.json", "lock", "records.jsonl", "refused.jsonl", "files"


def server_name(workdir: Path, uri: str) -> str:
    """A store's address as it may be written down."""
    return OWN_STORE if uri == f"sqlite:///{workdir / 'mlflow.db'}" else redact(uri)


class Outbox:
    """One driver's records, on their way to one store. Its lock is held while it is open."""

    def __init__(self, folder: Path, lock: IO[str]) -> None:
        about = read_json(folder / _ABOUT) or {}
        self.folder, self._lock = folder, lock
        self.experiment, self.driver, self.home = (about[key] for key in ("experiment", "driver", "server"))
        self.workdir = folder.parents[1]
        self._records = (folder / _RECORDS).open("ab", buffering=0)
        self._progress = (folder / PROGRESS_FILE).open("ab", buffering=0)
        self._reader = (folder / _RECORDS).open("rb")
        self.refused_file = folder / _REFUSED
        self.count = sum(1 for _ in read_lines(folder / _RECORDS))
        self.turn_to(self.home)

    def turn_to(self, server: str) -> None:
        """From now on it is delivered to this store, which may be another than it was meant for."""
        self.server = server
        entries = read_lines(self.folder / PROGRESS_FILE)
        self.done = max((own["done"] for own in entries if own["server"] == server), default=0)
        self.refused = sum(own["server"] == server for own in read_lines(self.refused_file))
        self.refusal = ""  # the latest
        self._ahead: Record | None = None
        self._reader.seek(0)
        for _ in range(self.done):
            self._reader.readline()

    @classmethod
    def new(cls, workdir: Path, server: str, experiment: str) -> "Outbox":
        """This process's own. Names of folders sort by age."""
        folder = workdir / FOLDER / f"{_now():013d}-{os.getpid()}-{uuid4().hex[:4]}"
        lock = hold(folder / _LOCK)
        assert lock is not None  # nobody else knows of it
        write_json(folder / _ABOUT, {"server": server, "experiment": experiment, "driver": driver_name()})
        return cls(folder, lock)

    @classmethod
    def left_behind(cls, folder: Path) -> "Outbox | None":
        """A dead driver's; None while its driver lives, or another delivers it."""
        if not is_outbox(folder) or (lock := hold(folder / _LOCK)) is None:
            return None
        if is_outbox(folder):  # else it was delivered and removed in between
            return cls(folder, lock)
        lock.close()
        shutil.rmtree(folder, ignore_errors=True)  # the lock's file
        return None

    @property
    def pending(self) -> int:
        return self.count - self.done

    def append(
        self, call: str, args: Iterable[Any], kwargs: Mapping[str, Any], *, opens_run: bool = False
    ) -> Record:
        """Writes a record down, with copies of the files that it names and no artifact keeps."""
        number = self.count

        def keep(path: Path) -> str:
            return self._keep(path, number)

        name = new_name(self.folder.name, number) if opens_run else None
        record = Record(number, _now(), call, encode(args, keep), encode(kwargs, keep), name)
        _write(self._records, json_line(asdict(record)))
        self.count += 1
        return record

    def next(self) -> Record:
        """The first record that the store does not have, until it is marked or refused."""
        if self._ahead is None:
            self._ahead = Record(**json.loads(self._reader.readline()))
        return self._ahead

    def mark(self, record: Record, run_id: str | None = None) -> None:
        """The store has the record, of which it made this run."""
        entry: dict[str, Any] = {"server": self.server, "done": record.number + 1}
        if record.name and run_id:
            entry |= {"name": record.name, "id": run_id}
        _write(self._progress, json_line(entry))
        self.done, self._ahead = record.number + 1, None

    def refuse(self, record: Record, reason: str) -> None:
        """The store will never take the record, which is kept aside."""
        entry = {"server": self.server, "reason": reason, "record": asdict(record)}
        with self.refused_file.open("ab") as file:
            file.write(json_line(entry))
        self.refused, self.refusal = self.refused + 1, reason
        self.mark(record)

    def close(self, *, named: Container[str] | None = None) -> None:
        """Lets go of it; removes it when the store has all, but for what of runs it alone knows.

        named: names of runs that others may have heard; None: any.
        """
        if not self.pending and not self.refused and is_outbox(self.folder):
            entries = [e for e in read_lines(self.folder / PROGRESS_FILE) if "name" in e]
            remember(self.folder.parent, [e for e in entries if named is None or e["name"] in named])
            self.discard()
        for file in (self._records, self._progress, self._reader, self._lock):
            file.close()

    def discard(self) -> None:
        """Removes it, whatever is in it."""
        (self.folder / _ABOUT).unlink()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _keep(self, path: Path, number: int) -> str:
        """Where in the workdir a file or folder stays: in its artifact, or as a copy."""
        path = path.absolute()
        if not path.is_relative_to(self.workdir / "artifacts"):
            copy = self.folder / _FILES / str(number) / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            path = Path(shutil.copytree(path, copy) if path.is_dir() else shutil.copyfile(path, copy))
        return path.relative_to(self.workdir).as_posix()


def others_at_work(own: Outbox) -> bool:
    """Whether another process has an outbox of the same workdir open."""
    for folder in outbox_folders(own.workdir):
        if folder == own.folder:
            continue
        if (box := Outbox.left_behind(folder)) is not None:
            box.close()
        elif is_outbox(folder):
            return True
    return False


def is_outbox(folder: Path) -> bool:
    return read_json(folder / _ABOUT) is not None


def outbox_folders(workdir: Path) -> list[Path]:
    """Of all drivers that have not delivered everything, the oldest first."""
    return sorted(about.parent for about in (workdir / FOLDER).glob(f"*/{_ABOUT}"))


def _write(file: FileIO, line: bytes) -> None:
    """The whole line, or nothing and an OSError."""
    size = file.seek(0, os.SEEK_END)
    if file.write(line) < len(line):
        file.truncate(size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)


def _now() -> int:
    return int(time.time() * 1000)
