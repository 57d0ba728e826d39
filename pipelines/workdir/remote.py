"""Objects below one address of an object store, through pyarrow.fs: all that a shared workdir asks of one.

`s3://bucket/prefix` (AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL name another server than Amazon's),
`gs://bucket/prefix`, `file:///folder`. Credentials are those that each machine's own libraries find
(environment, profile, instance role; none: anonymous); an address that holds some is refused, and nothing
here keeps or ships any.
"""

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from uuid import uuid4

import pyarrow as pa
from pyarrow import fs

from data.redact import redact

T = TypeVar("T")
_PAUSES = (1.0, 3.0, 9.0)  # seconds before a call is tried again; pyarrow itself tries thrice without any
_AT_ONCE = 8  # files on their way
_CHUNK = 8 << 20
_SCHEMES = ("s3", "gs", "file")
# What S3 says when no patience helps.
_FINAL = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH")
REACHABLE = "check the address, the credentials of the environment and AWS_ENDPOINT_URL"
_FULL = {errno.ENOSPC, errno.EDQUOT}


class RemoteError(OSError):
    """The store cannot do what it was asked; one line, with its address and no secrets."""


@dataclass(frozen=True)
class Entry:
    """An object, as a listing gives it. `mtime_ns` is by the store's clock."""

    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Remote:
    """Objects named below an address; names hold '/'. Can be pickled, for processes on other machines.

    Each method is a few requests, tried again after `pauses` when the connection or the store fails, and
    raises RemoteError in the end, FileNotFoundError when there is no such object.
    """

    address: str
    endpoint: str = ""
    region: str = ""
    pauses: tuple[float, ...] = _PAUSES

    @property
    def hasty(self) -> "Remote":
        """The same without second tries: for a person who waits at a command line."""
        return replace(self, pauses=())

    def unusable(self) -> str:
        """Why nothing can be read there, in words; empty when something can."""
        bucket = self._at("").partition("/")[0] if not self.is_local else ""
        try:
            found = self.hasty._patiently(lambda: self._filesystem.get_file_info(bucket or "/"))
        except RemoteError as error:
            return str(error).removeprefix(f"{self.address}: ")
        return f"there is no bucket {bucket!r}" if found.type == fs.FileType.NotFound else ""

    def unwritable(self) -> str:
        """Why nothing can be written there or removed again, in words; empty when something can."""
        probe = f".probe-{uuid4().hex[:8]}"
        try:
            self.hasty.write(probe, b"x")
            self.hasty.remove(probe)
        except RemoteError as error:
            return str(error).removeprefix(f"{self.address}: ")
        return ""

    def entries(self, below: str = "") -> dict[str, Entry]:
        """All objects under a prefix by their names below it: a request for each thousand."""
        at = self._at(below)
        selector = fs.FileSelector(at, recursive=True, allow_not_found=True)
        found = self._patiently(lambda: self._filesystem.get_file_info(selector))
        return {
            PurePosixPath(info.path).relative_to(at).as_posix(): Entry(info.size, info.mtime_ns)
            for info in found
            if info.type == fs.FileType.File
        }

    def read(self, name: str) -> bytes:
        def call() -> bytes:
            with self._filesystem.open_input_stream(self._at(name)) as stream:
                return bytes(stream.read())

        return self._patiently(call)

    def write(self, name: str, content: bytes) -> None:
        def call() -> None:
            with self._new(name) as out:
                out.write(content)

        self._patiently(call)

    def put(self, file: Path, name: str) -> None:
        """Uploads a file. Cut short, it may leave its beginning: what counts is written behind it."""

        def call() -> None:
            with file.open("rb") as source, self._new(name) as out:
                shutil.copyfileobj(source, out, _CHUNK)

        self._patiently(call)

    def get(self, name: str, file: Path) -> str:
        """Downloads an object into a new file; returns its sha256."""

        def call() -> str:
            digest = hashlib.sha256()
            with self._filesystem.open_input_stream(self._at(name)) as source, file.open("wb") as out:
                while chunk := source.read(_CHUNK):
                    digest.update(chunk)
                    out.write(chunk)
            return digest.hexdigest()

        file.parent.mkdir(parents=True, exist_ok=True)
        return self._patiently(call)

    def remove(self, name: str) -> None:
        """Of an object that may be missing."""
        self._gone(lambda: self._filesystem.delete_file(self._at(name)))

    def remove_tree(self, below: str) -> None:
        """Of objects that may be missing, which each store says in words of its own."""
        if self.entries(below):
            self._gone(lambda: self._filesystem.delete_dir(self._at(below)))

    def each(self, call: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
        """What `call` returns for each item, several at once."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(call, items))

    def folder(self, below: str) -> tuple[fs.FileSystem, str]:
        """For libraries that know pyarrow's file systems themselves."""
        return self._filesystem, self._at(below)

    @property
    def is_local(self) -> bool:
        return self.address.startswith("file://")

    @property
    def _filesystem(self) -> fs.FileSystem:
        return _connect(self.address, self.endpoint, self.region)

    def _at(self, name: str) -> str:
        place = self.address.partition("://")[2]
        return f"{place}/{name}" if name else place

    def _new(self, name: str) -> Any:
        if self.is_local:
            self._filesystem.create_dir(self._at(name).rpartition("/")[0])
        return self._filesystem.open_output_stream(self._at(name))

    def _gone(self, remove: Callable[[], None]) -> None:
        with suppress(FileNotFoundError):
            self._patiently(remove)

    def _patiently(self, call: Callable[[], T]) -> T:
        for pause in (*self.pauses, None):
            try:
                return call()
            except FileNotFoundError:
                raise
            except (OSError, pa.ArrowException) as error:
                if pause is None or not _may_pass(error):
                    raise RemoteError(f"{self.address}: {_reason(error)}") from None
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")


def open_remote(address: str) -> Remote:
    """The store at an address, with what of this process's environment says where it is.

    Raises ValueError, whose text says what is allowed.
    """
    scheme, _, place = address.partition("://")
    if scheme not in _SCHEMES:
        raise ValueError("use a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
    if set(place) & set("@?#"):
        raise ValueError(
            "must be BUCKET/PREFIX and nothing else: credentials come from the environment or a profile, "
            "another server from AWS_ENDPOINT_URL"
        )
    if not place.strip("/"):
        raise ValueError("names no bucket")
    address = f"{scheme}://{place.rstrip('/')}"
    if scheme != "s3":
        return Remote(address)
    endpoint = _environment("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    if "@" in endpoint:
        raise ValueError("AWS_ENDPOINT_URL must hold no user or password")
    return Remote(address, endpoint, _environment("AWS_REGION", "AWS_DEFAULT_REGION"))


def is_full(error: OSError) -> bool:
    """Whether a disk of this machine has no room left."""
    return error.errno in _FULL


def _environment(*names: str) -> str:
    return next(filter(None, map(os.environ.get, names)), "")


@cache
def _connect(address: str, endpoint: str, region: str) -> fs.FileSystem:
    """One connection a process and store. Small objects take one request (`allow_delayed_open`)."""
    scheme, _, place = address.partition("://")
    if scheme == "file":
        return fs.LocalFileSystem()
    if scheme == "gs":
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=20))  # of its own accord 15 minutes
    if not endpoint and not region:
        region = fs.resolve_s3_region(place.partition("/")[0])
    return fs.S3FileSystem(
        endpoint_override=endpoint or None, region=region or "us-east-1", allow_delayed_open=True
    )


def _may_pass(error: Exception) -> bool:
    """False for this machine's own troubles, and for what the store will say again."""
    own = isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError)
    return not own and not any(code in str(error) for code in _FINAL)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and is_full(error):
        return "this machine's disk has no room left"
    return redact(" ".join(str(error).split())) or type(error).__name__
