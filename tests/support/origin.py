"""A server of images on this machine that misbehaves when told to, and lists of what it has."""

import hashlib
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from data.fetching.download import Downloader
from data.fetching.openimages import Crew, Seed
from data.fetching.rate import TokenBucket
from data.fetching.tally import Tally
from tests.support.data_files import picture


class Origin(ThreadingHTTPServer):
    """Serves `files` by path. `faults` of a path are used up, one a request; `log` is (path, Range)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}  # in place of the MD5
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.log: list[tuple[str, str | None]] = []
        self.on_request: Callable[[], None] = lambda: None
        self.hanging, self.release = threading.Semaphore(0), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def asked(self) -> Counter[str]:
        return Counter(path for path, _ in self.log)

    def handle_error(self, *_: object) -> None:
        """Clients that are killed are expected."""


class Answer(BaseHTTPRequestHandler):
    server: Origin

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        span = self.headers["Range"]
        self.server.log.append((self.path, span))
        self.server.on_request()
        faults = self.server.faults[self.path]
        fault, _, argument = (faults.pop(0) if faults else "").partition(" ")
        content = self.server.files.get(self.path)
        if fault.isdecimal():
            self._refuse(int(fault), argument)
        elif fault == "moved":
            self._refuse(302, location=argument)
        elif content is None:
            self._refuse(404)
        else:
            self._serve(content, span, fault)

    def _refuse(self, status: int, retry_after: str = "", location: str = "") -> None:
        self.send_response(status)
        for name, value in (("Retry-After", retry_after), ("Location", location)):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _serve(self, content: bytes, span: str | None, fault: str) -> None:
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        etag = self.server.etags.get(self.path, etag)
        etag = {"changed": f'"{"0" * 32}"', "no-etag": "", "weak-half": f"W/{etag}"}.get(fault, etag)
        start = int(span[6:-1]) if span and fault != "whole" else 0
        if start and self.headers["If-Range"] != etag and fault not in ("changed", "misplaced", "forced"):
            start = 0
        body = content[start:]
        self.send_response(206 if start else 200)
        if start:
            shift = fault == "misplaced"
            self.send_header("Content-Range", f"bytes {start + shift}-{len(content) - 1}/{len(content)}")
        if etag:
            self.send_header("ETag", etag)
        if fault == "content-md5":
            self.send_header("Content-MD5", "AAAAAAAAAAAAAAAAAAAAAA==")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "flip":
            body = body[:-1] + bytes([body[-1] ^ 1])
        half = fault in ("half", "weak-half", "hang", "no-etag")
        self.wfile.write(body[: len(body) // 2] if half else body)
        if fault == "hang":
            self.wfile.flush()
            self.server.hanging.release()
            self.server.release.wait(60)


@contextmanager
def serving() -> Iterator[Origin]:
    with Origin() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


class Clock:
    """Time that passes only by waiting for it. Can be told to stop those who wait."""

    def __init__(self) -> None:
        self.now, self.waits = 1000.0, []

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        self.waits += [seconds] * (seconds > 0)
        return False


def name_of(number: int, split: str = "train") -> str:
    return f"{split}/{number:016x}"


def jpeg(number: int) -> bytes:
    return picture(number, (50, 40), kind="JPEG")


def publish(origin: Origin, *names: str) -> None:
    origin.files |= {f"/{name}.jpg": jpeg(int(name.split("/")[1], 16)) for name in names}


def write_list(path: Path, *names: str) -> Path:
    path.write_text("".join(f"{name}\n" for name in names))
    return path


def fetch(
    origin: Origin, folder: Path, *names: str, clock: Clock | None = None, workers: int = 1, **changes: float
) -> Tally:
    """In this process, on a fake clock, into folder/train."""
    clock = clock or Clock()
    seeds = [Seed(name, folder / "train" / f"{name.split('/')[1]}.jpg") for name in names]
    tally = Tally(len(seeds))
    bucket = TokenBucket(changes.pop("per_second", 50), clock.wait, lambda: clock.now)
    downloader = Downloader(bucket, **changes)
    Crew(downloader, origin.url, threading.Event()).fetch(folder, seeds, tally, workers, lambda: None)
    return tally


def present(folder: Path) -> dict[str, bytes]:
    """Everything below, hidden files too, but the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def fetched(origin: Origin, *names: str) -> dict[str, bytes]:
    """The value of `present` when only these images have been downloaded."""
    return {f"train/{name.split('/')[1]}.jpg": origin.files[f"/{name}.jpg"] for name in names}


def command(origin: Origin, root: Path, *arguments: str | Path) -> list[str]:
    base = ["-m", "data.get", "openimages", "--root", root, "--base-url", origin.url]
    return [sys.executable, *map(str, (*base, *arguments))]
