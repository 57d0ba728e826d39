"""Folders of shards on local disks and on object stores, behind the same few verbs.

`s3://bucket/prefix` and `gs://bucket/prefix` go through pyarrow.fs, with the credentials that it finds
(environment, profile, instance role) or those in the address; addresses are shown without them.
"""

import fcntl
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import BinaryIO, cast
from uuid import uuid4

import pyarrow as pa
from pyarrow import fs

from data.redact import redact, redact_address

SCHEMES = ("s3", "gs", "gcs")
UNFINISHED = ".unfinished"  # ends the names of what a killed process left behind
LOCK = f".lock{UNFINISHED}"  # held by whoever writes the folder
PARTS = ".parts"  # of a build of shards that is not finished


class FolderError(ValueError):
    """An address that cannot be used; the text says why, without secrets."""


class Folder(ABC):
    """Named files below one place. Names may hold '/'. Files appear whole or not at all."""

    shown: str  # for people: no secrets

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """A seekable file to read. Raises FileNotFoundError."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of a file; None when there is no such file."""

    @abstractmethod
    def changed(self, name: str) -> int:
        """When a file was written last, in nanoseconds."""

    @abstractmethod
    def new_file(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A file to write, which appears under that name when the block ends without an error."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Of a file that may be missing."""

    @abstractmethod
    def names(self) -> Iterator[str]:
        """Of all files below, in no particular order."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else on this disk holds the folder meanwhile. Raises FolderError; on object stores never."""
        yield

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def read_part(self, name: str, offset: int, size: int) -> bytes:
        """As many of `size` bytes as there are. Raises FileNotFoundError."""
        with self.open(name) as file:
            file.seek(offset)
            return file.read(size)

    def write(self, name: str, content: bytes) -> None:
        with self.new_file(name) as file:
            file.write(content)


@dataclass(frozen=True)
class LocalFolder(Folder):
    path: Path

    @property
    def shown(self) -> str:  # type: ignore[override]
        return str(self.path)

    def open(self, name: str) -> BinaryIO:
        return (self.path / name).open("rb")

    def read_part(self, name: str, offset: int, size: int) -> bytes:
        # Takes a third of a file object's time.
        descriptor = os.open(f"{self.path}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def size(self, name: str) -> int | None:
        file = self.path / name
        return file.stat().st_size if file.is_file() else None

    def changed(self, name: str) -> int:
        return (self.path / name).stat().st_mtime_ns

    @contextmanager
    def new_file(self, name: str) -> Iterator[BinaryIO]:
        final = self.path / name
        final.parent.mkdir(parents=True, exist_ok=True)
        near = final.with_name(f".{final.name}.{uuid4().hex[:8]}{UNFINISHED}")
        try:
            with near.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # a power cut would leave the name without the bytes
            os.replace(near, final)
        finally:
            near.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    @contextmanager
    def held(self) -> Iterator[None]:
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path / LOCK, f"{self.shown} is being written by another process"):
            yield

    def names(self) -> Iterator[str]:
        return (path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if path.is_file())


@dataclass(frozen=True)
class ObjectFolder(Folder):
    """Below a prefix of a bucket. Can be pickled, with its credentials."""

    filesystem: fs.FileSystem
    path: str
    shown: str

    def open(self, name: str) -> BinaryIO:
        return cast(BinaryIO, self.filesystem.open_input_file(self._at(name)))

    def size(self, name: str) -> int | None:
        info = self.filesystem.get_file_info(self._at(name))
        return cast(int, info.size) if info.type == fs.FileType.File else None

    def changed(self, name: str) -> int:
        return int(self.filesystem.get_file_info(self._at(name)).mtime_ns)

    @contextmanager
    def new_file(self, name: str) -> Iterator[BinaryIO]:
        with TemporaryFile() as file:  # an upload that is cut short would leave its beginning
            yield file
            file.seek(0)
            with self.filesystem.open_output_stream(self._at(name)) as out:
                shutil.copyfileobj(file, out, 8 << 20)

    def remove(self, name: str) -> None:
        if self.size(name) is not None:
            self.filesystem.delete_file(self._at(name))

    def names(self) -> Iterator[str]:
        return (name for name, _ in self.files())

    def files(self) -> Iterator[tuple[str, fs.FileInfo]]:
        """All files below by name, with their sizes and times."""
        selector = fs.FileSelector(self.path, recursive=True, allow_not_found=True)
        for info in self.filesystem.get_file_info(selector):
            if info.type == fs.FileType.File:
                yield PurePosixPath(info.path).relative_to(self.path).as_posix(), info

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}"


@contextmanager
def locked(file: Path, refusal: str = "") -> Iterator[None]:
    """Only one process of this machine at a time; waits for the others, or raises FolderError(refusal).

    The file goes with the block: who waited for it meanwhile begins anew.
    """
    while True:
        with file.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal else 0))
            except BlockingIOError:
                raise FolderError(refusal) from None
            if not _is_same(lock.fileno(), file):
                continue
            try:
                yield
            finally:
                file.unlink(missing_ok=True)
            return


def _is_same(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


Place = str | Path | Folder


def as_folder(place: Place) -> Folder:
    """The folder at a local path or an s3:// or gs:// address. Raises FolderError for another scheme."""
    if isinstance(place, Folder):
        return place
    if not is_address(str(place)):
        return LocalFolder(Path(place).expanduser())
    text = str(place)
    shown = redact_address(text)
    if text.partition("://")[0].lower() not in SCHEMES:
        raise FolderError(f"{shown}: use a local path, s3://bucket/prefix or gs://bucket/prefix")
    try:
        filesystem, path = fs.FileSystem.from_uri(text)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = redact(str(error).replace(text, shown))
        raise FolderError(f"{shown}: {reason}") from None  # the cause may hold secrets
    if not path:
        raise FolderError(f"{shown}: names no bucket")
    return ObjectFolder(filesystem, path.rstrip("/"), shown)


def is_address(text: str) -> bool:
    """Whether a text is an address of some scheme rather than a path."""
    return "://" in text
