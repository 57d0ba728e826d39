"""One file by HTTP: continued where it broke off, verified, retried within bounds, at a bounded rate."""

import base64
import hashlib
import os
import random
import re
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError

from data.fetching.rate import Meter, TokenBucket

_CHUNK = 1 << 16
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 600.0  # seconds
_BUSY = (429, 503)
_MD5_ETAG = re.compile(r'"([0-9a-f]{32})"')  # what S3 gives a file that came in one part

Check = Callable[[Path], None]


class DownloadError(Exception):
    """A file that did not come; the text says why. `away`: nobody answered, or only to say "not now"."""

    def __init__(self, reason: str, *, away: bool = False) -> None:
        super().__init__(reason)
        self.away = away


class _TryAgain(DownloadError):
    """Worth another attempt."""


@dataclass
class Downloader:
    """num_attempts: requests for one file; timeout: seconds for connecting and for each read."""

    bucket: TokenBucket
    num_attempts: int = 5
    timeout: float = 30.0
    _opener: urllib.request.OpenerDirector = field(init=False)

    def __post_init__(self) -> None:
        self._opener = urllib.request.build_opener(Meter(self.bucket))

    def fetch(self, url: str, file: Path, check: Check) -> None:
        """`url` as `file`, which appears when it is complete, agrees with its checksum and passes `check`.

        `check` raises ValueError with what is wrong. Raises DownloadError when there is no such file or
        the attempts are used up, rate.Stopped, and OSError when the disk fails.
        """
        part = file.with_name(f".{file.name}.part")
        for attempt in range(self.num_attempts):
            try:
                self._attempt(url, part, check)
            except _TryAgain as problem:
                if attempt + 1 == self.num_attempts:
                    reason = f"{problem}, {self.num_attempts} times"
                    raise DownloadError(reason, away=problem.away) from problem
                self.bucket.sleep(_FIRST_WAIT * 2**attempt * random.uniform(0.5, 1))
            else:
                _etag_of(part).unlink(missing_ok=True)
                os.replace(part, file)
                return

    def _attempt(self, url: str, part: Path, check: Check) -> None:
        """Leaves a verified `part`, or one to continue, or none."""
        start, etag = _kept(part)
        with self._open(url, start, etag, part) as response:
            continued = response.status == 206
            if continued and not _fits(response, start, etag):
                _discard(part)
                raise _TryAgain("the server went on with another file or place than asked for")
            size = _number(response.headers["Content-Length"])
            with part.open("ab" if continued else "wb") as out:
                if not continued:  # only now is nothing left that the new ETag does not belong to
                    _etag_of(part).write_text(response.headers["ETag"] or "", "utf-8")
                self._read(response, out)
        missing = 0 if size is None else size + continued * start - part.stat().st_size
        if missing:
            raise _TryAgain(f"the connection ended {missing:,} bytes early", away=True)
        try:
            _verify(part, response)
            check(part)
        except ValueError as error:
            _discard(part)
            raise _TryAgain(str(error)) from error

    def _open(self, url: str, start: int, etag: str, part: Path) -> HTTPResponse:
        headers = {"User-Agent": "data.get (python urllib)"}
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": etag}
        try:
            response: HTTPResponse = self._opener.open(
                urllib.request.Request(url, headers=headers), timeout=self.timeout
            )
        except HTTPError as error:
            with error:
                raise self._refused(error, part) from error
        except (OSError, HTTPException) as error:
            raise _TryAgain(_told(error), away=True) from error
        return response

    def _refused(self, error: HTTPError, part: Path) -> DownloadError:
        reason = f"HTTP {error.code} {error.reason}".strip()
        if error.code == 416:  # what is kept is as long as the file, or longer
            _discard(part)
            return _TryAgain(reason)
        if error.code < 500 and error.code not in (408, 429):
            return DownloadError(reason)
        seconds = _seconds(error.headers["Retry-After"])
        if seconds > _LONGEST_WAIT:
            return DownloadError(f"{reason}, to be tried again in {seconds:.0f} s", away=True)
        self.bucket.pause(seconds)
        return _TryAgain(reason, away=error.code in _BUSY)

    def _read(self, response: HTTPResponse, out: BinaryIO) -> None:
        while True:
            try:
                chunk = response.read1(_CHUNK)
            except (OSError, HTTPException) as error:
                raise _TryAgain(_told(error), away=True) from error
            if not chunk:
                return
            out.write(chunk)
            out.flush()  # a kill loses nothing of it
            self.bucket.sleep(0)


def _etag_of(part: Path) -> Path:
    return part.with_suffix(".etag")


def _kept(part: Path) -> tuple[int, str]:
    """Bytes that can be continued, and the strong ETag of the file that they begin; (0, "") for none."""
    try:
        etag = _etag_of(part).read_text("utf-8")
        size = part.stat().st_size
    except (FileNotFoundError, UnicodeDecodeError):
        return 0, ""
    return (size, etag) if re.fullmatch(r'"[!-~]+"', etag) and size else (0, "")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _etag_of(part).unlink(missing_ok=True)


def _fits(response: HTTPResponse, start: int, etag: str) -> bool:
    """Whether a 206 is the rest of the same file, to its end."""
    span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers["Content-Range"] or "")
    if not span or response.headers["ETag"] != etag:
        return False
    first, last, size = map(int, span.groups())
    return first == start and last == size - 1


def _verify(part: Path, response: HTTPResponse) -> None:
    """Raises ValueError when the response names an MD5 for the whole file that is not the file's."""
    etag = _MD5_ETAG.fullmatch(response.headers["ETag"] or "")
    given = response.headers["Content-MD5"] if response.status == 200 else None  # of a 206 it is the piece's
    with part.open("rb") as file:
        found = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False))
    if etag and etag[1] != found.hexdigest():
        raise ValueError("the MD5 differs from the server's")
    if given and given != base64.b64encode(found.digest()).decode():
        raise ValueError("the MD5 differs from the server's")


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _seconds(retry_after: str | None) -> float:
    """Of a Retry-After, which is a number of seconds or a date; 0 for none."""
    if (seconds := _number(retry_after)) is not None:
        return float(seconds)
    try:
        then = parsedate_to_datetime(retry_after or "")
    except ValueError:
        return 0.0
    return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _told(error: Exception) -> str:
    """A connection's failure in a few words."""
    reason = getattr(error, "reason", error)
    return str(getattr(reason, "strerror", None) or reason) or type(error).__name__
