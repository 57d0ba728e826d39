"""Shards of an object store, fetched whole while they are needed: one request instead of thousands."""

import shutil
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import BinaryIO

from data.folders import Folder


class FetchedFolder(Folder):
    """Reads a folder's files from local copies, of which the `keep` last used ones stay.

    The copies go with the process. Several threads may read at once.
    """

    def __init__(self, origin: Folder, keep: int) -> None:
        self.origin, self.keep, self.shown = origin, keep, origin.shown
        self._scratch = TemporaryDirectory(prefix="shards-")
        self._copies: OrderedDict[str, Lock] = OrderedDict()
        self._lock = Lock()

    def open(self, name: str) -> BinaryIO:
        copy = Path(self._scratch.name) / name
        with self._lock:
            fetching = self._copies.setdefault(name, Lock())
            self._copies.move_to_end(name)
        with fetching:
            if not copy.is_file():
                copy.parent.mkdir(parents=True, exist_ok=True)
                near = copy.with_name(f"{copy.name}.near")
                with self.origin.open(name) as source, near.open("wb") as out:
                    shutil.copyfileobj(source, out, 8 << 20)
                near.rename(copy)
            file = copy.open("rb")
        self._forget()
        return file

    def _forget(self) -> None:
        """A file that is open somewhere stays readable there."""
        with self._lock:
            while len(self._copies) > self.keep:
                name, _ = self._copies.popitem(last=False)
                (Path(self._scratch.name) / name).unlink(missing_ok=True)

    def size(self, name: str) -> int | None:
        return self.origin.size(name)

    def changed(self, name: str) -> int:
        return self.origin.changed(name)

    def new_file(self, name: str) -> AbstractContextManager[BinaryIO]:
        return self.origin.new_file(name)

    def remove(self, name: str) -> None:
        self.origin.remove(name)

    def names(self) -> Iterator[str]:
        return self.origin.names()
