"""Lists of seeds from a server that misbehaves on purpose: what comes is whole, and asked for once."""

import fcntl
import hashlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data
import data.fetching.openimages as openimages
from data.fetching.download import Downloader
from data.fetching.openimages import Crew, ListError, Seed, TroubleError, plan
from data.fetching.rate import Stopped, TokenBucket
from data.fetching.tally import Tally, Watch
from data.sources.base import folder_source

ROOT = Path(data.__file__).parents[1]


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


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Origin]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
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


def told(value: object) -> str:
    """A test's name for a parameter."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def name_of(number: int, split: str = "train") -> str:
    return f"{split}/{number:016x}"


def jpeg(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


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
    """What `present` is when just these have come."""
    return {f"train/{name.split('/')[1]}.jpg": origin.files[f"/{name}.jpg"] for name in names}


def test_images_come_whole_and_are_asked_for_once(origin, tmp_path):
    names = [name_of(number) for number in range(12)]
    publish(origin, *names)
    tally = fetch(origin, tmp_path, *names, workers=4)
    assert (tally.num_fetched, tally.num_there, tally.failed) == (12, 0, {})
    assert present(tmp_path) == fetched(origin, *names)
    assert set(origin.asked().values()) == {1}
    again = fetch(origin, tmp_path, *names, workers=4)
    assert (again.num_fetched, again.num_there) == (0, 12)
    assert len(origin.log) == 12


def test_empty_file_is_fetched_again(origin, tmp_path):
    publish(origin, name_of(1))
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / f"{1:016x}.jpg").touch()
    assert fetch(origin, tmp_path, name_of(1)).num_fetched == 1
    assert present(tmp_path) == fetched(origin, name_of(1))


@pytest.mark.parametrize(
    ("faults", "num_requests"),
    [
        (["500", "502"], 3),
        (["408"], 2),
        (["429 7"], 2),
        (["503 7"], 2),
        (["flip"], 2),
        (["content-md5"], 2),
        (["changed"], 2),
        (["half"], 2),
        (["half", "half", "half"], 4),
        (["half", "whole"], 2),
        (["half", "changed"], 3),
        (["half", "misplaced"], 3),
        (["half", "416"], 3),
        (["half", "flip"], 3),
        (["weak-half"], 2),
        (["no-etag"], 2),
    ],
    ids=told,
)
def test_a_server_that_misbehaves_for_a_while_is_asked_again(origin, tmp_path, faults, num_requests):
    publish(origin, name_of(3))
    path = f"/{name_of(3)}.jpg"
    origin.faults[path] = list(faults)
    assert fetch(origin, tmp_path, name_of(3)).failed == {}
    assert present(tmp_path) == fetched(origin, name_of(3))
    assert origin.asked() == {path: num_requests}


@pytest.mark.parametrize(
    ("faults", "ranges"),
    [
        (["half"], [None, "half"]),
        (["half", "half"], [None, "half", "three quarters"]),
        (["half", "changed"], [None, "half", None]),
        (["half", "misplaced"], [None, "half", None]),
        (["weak-half"], [None, None]),
        (["no-etag"], [None, None]),
    ],
    ids=told,
)
def test_only_the_rest_of_the_same_file_is_continued(origin, tmp_path, faults, ranges):
    publish(origin, name_of(3))
    path = f"/{name_of(3)}.jpg"
    size = len(origin.files[path])
    origin.faults[path] = list(faults)
    fetch(origin, tmp_path, name_of(3))
    starts = {None: None, "half": size // 2, "three quarters": size // 2 + (size - size // 2) // 2}
    assert [span for _, span in origin.log] == [
        None if starts[wanted] is None else f"bytes={starts[wanted]}-" for wanted in ranges
    ]


def test_a_file_that_changed_in_between_is_not_mixed(origin, tmp_path):
    """The server knows If-Range and sends the new file; what was kept of the old one is dropped."""
    publish(origin, name_of(3))
    path = f"/{name_of(3)}.jpg"
    origin.faults[path] = ["half"]
    assert fetch(origin, tmp_path, name_of(3), num_attempts=1).num_fetched == 0
    origin.files[path] = jpeg(99)
    assert fetch(origin, tmp_path, name_of(3)).num_fetched == 1
    assert present(tmp_path) == fetched(origin, name_of(3))
    assert [bool(span) for _, span in origin.log] == [False, True]


def test_a_new_etag_is_a_new_file_whatever_the_server_continues(origin, tmp_path):
    """No MD5 in the ETag, and If-Range is not heeded: only the ETag tells that the rest is another's."""
    publish(origin, name_of(3))
    path = f"/{name_of(3)}.jpg"
    origin.etags[path], origin.faults[path] = '"first"', ["half", "forced"]
    assert fetch(origin, tmp_path, name_of(3), num_attempts=1).num_fetched == 0
    origin.files[path], origin.etags[path] = jpeg(99), '"second"'
    assert fetch(origin, tmp_path, name_of(3)).num_fetched == 1
    assert present(tmp_path) == fetched(origin, name_of(3))
    assert [bool(span) for _, span in origin.log] == [False, True, False]


@pytest.mark.parametrize(
    ("faults", "num_requests", "reason"),
    [
        ([], 1, "HTTP 404 Not Found"),
        (["403"], 1, "HTTP 403 Forbidden"),
        (["500"] * 9, 5, "HTTP 500 Internal Server Error, 5 times"),
        (["429"] * 9, 5, "HTTP 429 Too Many Requests, 5 times"),
        (["429 3600"], 1, "HTTP 429 Too Many Requests, to be tried again in 3600 s"),
    ],
    ids=["404", "403", "500", "429", "an hour"],
)
def test_refusals_are_bounded_and_listed(origin, tmp_path, faults, num_requests, reason):
    publish(origin, name_of(1), name_of(3))
    gone = f"/{name_of(2)}.jpg"
    origin.faults[gone] = list(faults)
    tally = fetch(origin, tmp_path, name_of(1), name_of(2), name_of(3))
    assert tally.failed == {name_of(2): reason}
    assert origin.asked()[gone] == num_requests
    listed = {"failed.tsv": f"{name_of(2)}\t{reason}\n".encode()}
    assert present(tmp_path) == fetched(origin, name_of(1), name_of(3)) | listed
    publish(origin, name_of(2))
    origin.faults.clear()
    assert fetch(origin, tmp_path, name_of(1), name_of(2), name_of(3)).num_fetched == 1
    assert present(tmp_path) == fetched(origin, name_of(1), name_of(2), name_of(3))


@pytest.mark.parametrize(
    ("content", "faults", "reason"),
    [
        (b"<html>no picture</html>", [], "not a whole image: cannot identify image file"),
        (b"", [], "not a whole image: cannot identify image file"),
        (jpeg(2)[:-900], [], "not a whole image: image file is truncated"),
        (jpeg(2), ["flip"] * 9, "the MD5 differs from the server's, 5 times"),
    ],
    ids=["text", "empty", "truncated at the source", "other MD5"],
)
def test_damaged_images_are_fetched_again_then_listed_and_not_kept(origin, tmp_path, content, faults, reason):
    path = f"/{name_of(2)}.jpg"
    origin.files[path], origin.faults[path] = content, faults
    tally = fetch(origin, tmp_path, name_of(2))
    assert tally.failed[name_of(2)].startswith(reason)
    assert origin.asked() == {path: 5}
    assert set(present(tmp_path)) == {"failed.tsv"}


def test_waits_double_with_jitter_and_honour_retry_after(origin, tmp_path):
    publish(origin, name_of(1))
    path = f"/{name_of(1)}.jpg"
    origin.faults[path] = ["500", "500", "503 40", "429 " + formatdate(time.time() + 60, usegmt=True)]
    clock, times = Clock(), []
    origin.on_request = lambda: times.append(clock.now)
    assert fetch(origin, tmp_path, name_of(1), clock=clock).num_fetched == 1
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert 0.5 <= gaps[0] <= 1
    assert 1 <= gaps[1] <= 2
    assert gaps[2] == pytest.approx(40)
    assert 50 <= gaps[3] <= 60  # the date is one of real time


def test_retry_after_holds_for_every_image(origin, tmp_path):
    names = [name_of(number) for number in range(4)]
    publish(origin, *names)
    origin.faults[f"/{names[0]}.jpg"] = ["404"]
    origin.faults[f"/{names[1]}.jpg"] = ["429 100"] * 1
    clock, times = Clock(), []
    origin.on_request = lambda: times.append(clock.now)
    fetch(origin, tmp_path, *names, clock=clock, num_attempts=1)
    assert [round(later - earlier, 3) for earlier, later in pairwise(times)] == [0.02, 100, 0.02]


@pytest.mark.parametrize("per_second", [50, 3, 0.5])
def test_no_more_requests_than_allowed(origin, tmp_path, per_second):
    """Counted where they arrive: retries and redirections count too."""
    names = [name_of(number) for number in range(8)]
    publish(origin, *names)
    origin.faults[f"/{names[1]}.jpg"] = ["half", "416", "flip"]
    origin.faults[f"/{names[2]}.jpg"] = [f"moved {origin.url}/{names[2]}.jpg"] * 2
    clock, times = Clock(), []
    origin.on_request = lambda: times.append(clock.now)
    assert fetch(origin, tmp_path, *names, clock=clock, per_second=per_second).num_fetched == 8
    assert len(times) == 13
    assert min(later - earlier for earlier, later in pairwise(times)) >= 1 / per_second - 1e-9


def test_token_bucket_over_threads():
    """On a fake clock that several threads wait on: no two tokens closer than allowed."""
    clock, lock, taken = Clock(), threading.Lock(), []

    def wait(seconds: float) -> bool:
        with lock:
            return clock.wait(seconds)

    bucket = TokenBucket(10, wait, lambda: clock.now)
    bucket_try = bucket._try

    def recorded() -> float:
        with lock:
            seconds = bucket_try()
            taken.extend([clock.now] * (seconds == 0))
            return seconds

    bucket._try = recorded
    threads = [threading.Thread(target=lambda: [bucket.take() for _ in range(25)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 100
    assert min(later - earlier for earlier, later in pairwise(taken)) >= 0.1 - 1e-9


def test_token_bucket_stops_those_who_wait():
    bucket = TokenBucket(1, lambda seconds: True, lambda: 0.0)
    bucket.take()
    with pytest.raises(Stopped):
        bucket.take()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_no_server_at_all_ends_it_early(origin, tmp_path, monkeypatch):
    monkeypatch.setattr(openimages, "_AWAY_IN_A_ROW", 3)
    away = type("Away", (), {"url": f"http://127.0.0.1:{closed_port()}"})
    with pytest.raises(TroubleError, match="3 images in a row got no answer, the last: Connection refused"):
        fetch(away, tmp_path, *(name_of(number) for number in range(50)))
    assert len((tmp_path / "failed.tsv").read_text().splitlines()) == 3


def test_images_that_are_missing_do_not_end_it(origin, tmp_path, monkeypatch):
    monkeypatch.setattr(openimages, "_AWAY_IN_A_ROW", 3)
    publish(origin, name_of(9))
    tally = fetch(origin, tmp_path, *(name_of(number) for number in range(10)))
    assert (tally.num_fetched, len(tally.failed)) == (1, 9)


def test_disk_that_fails_ends_it(origin, tmp_path):
    publish(origin, name_of(1), name_of(2))
    blocked = tmp_path / "train" / f".{1:016x}.jpg.part"
    blocked.mkdir(parents=True)
    with pytest.raises(TroubleError, match=r"\.part: Is a directory"):
        fetch(origin, tmp_path, name_of(1), name_of(2))
    assert not (tmp_path / "failed.tsv").exists()


def test_two_commands_do_not_write_the_same_folder(origin, tmp_path):
    publish(origin, name_of(1))
    with (tmp_path / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TroubleError, match="another command fetches into it"):
            fetch(origin, tmp_path, name_of(1))
    assert origin.log == []
    assert fetch(origin, tmp_path, name_of(1)).num_fetched == 1


def test_lists_become_files(tmp_path):
    first = tmp_path / "first.txt"
    first.write_bytes(b"\xef\xbb\xbftrain/00000000000000aa\r\n\r\n  validation/00000000000000ab \r\n")
    second = write_list(tmp_path / "second", "train/00000000000000aa", "test/00000000000000ac")
    held_out = write_list(tmp_path / "held out", "validation/00000000000000ad", "train/00000000000000ae")
    seeds = plan(tmp_path, [first, second], [held_out], None)
    assert {seed.name: str(seed.file.relative_to(tmp_path)) for seed in seeds} == {
        "train/00000000000000aa": "train/00000000000000aa.jpg",
        "validation/00000000000000ab": "train/00000000000000ab.jpg",
        "test/00000000000000ac": "train/00000000000000ac.jpg",
        "validation/00000000000000ad": "test/00000000000000ad.jpg",
        "train/00000000000000ae": "test/00000000000000ae.jpg",
    }
    shorter = [seed.name[-2:] for seed in plan(tmp_path, [first, second], [held_out], 1)]
    assert shorter == ["aa", "ad"]


@pytest.mark.parametrize(
    "line",
    [
        "00000000000000aa",
        "training/00000000000000aa",
        "train/00000000000000a",
        "train/00000000000000aa0",
        "train/00000000000000AA",
        "train/00000000000000ag",
        "train/00000000000000aa.jpg",
        "train/../../../../etc/pas",
        "train/00000000000000aa extra",
    ],
)
def test_bad_lines_are_named_with_file_and_number(tmp_path, line):
    given = write_list(tmp_path / "list.txt", name_of(1), "", line, name_of(2), "again bad")
    with pytest.raises(ListError) as caught:
        plan(tmp_path, [given], [], None)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{given}:3: {line!r}; give train, validation or test")
    assert second.startswith(f"{given}:5: 'again bad'; ")


def test_many_bad_lines_are_counted(tmp_path):
    given = write_list(tmp_path / "list.txt", *("bad",) * 1234)
    with pytest.raises(ListError) as caught:
        plan(tmp_path, [given], [], None)
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "and 1,214 more lines"


def test_held_out_seeds_are_not_trained_on(tmp_path):
    train = write_list(tmp_path / "train.txt", name_of(1), name_of(2))
    test = write_list(tmp_path / "test.txt", name_of(3), name_of(2))
    with pytest.raises(ListError, match=rf"test.txt:2: {name_of(2)}; it goes into train as {name_of(2)}"):
        plan(tmp_path, [train], [test], None)


def test_one_id_in_two_splits_is_refused(tmp_path):
    given = write_list(tmp_path / "list.txt", name_of(1), name_of(1, "validation"))
    with pytest.raises(ListError, match=rf"list.txt:2: validation/.* as {name_of(1)} already"):
        plan(tmp_path, [given], [], None)


@pytest.mark.parametrize("what", ["missing", "empty", "folder"])
def test_unusable_list_files_are_named(tmp_path, what):
    path = tmp_path / "list.txt"
    {"missing": lambda: None, "empty": path.touch, "folder": path.mkdir}[what]()
    reason = {"missing": "No such file", "empty": "no line in it", "folder": "Is a directory"}[what]
    with pytest.raises(ListError, match=f"list.txt: {reason}.*; give train, validation or test"):
        plan(tmp_path, [path], [], None)


def test_progress_is_a_line_every_few_seconds_without_a_terminal(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    tally = Tally(3000, num_there=1000)
    with Watch(tally) as watch:
        for _ in range(100):
            now[0] += 0.2
            tally.num_fetched += 2
            watch()
        tally.failed["train/x"] = "HTTP 404 Not Found"
        now[0] += 5
    lines = capsys.readouterr().err.splitlines()
    assert 4 <= len(lines) <= 5
    assert lines[0].startswith("1,050 of 3,000 images: 10.")
    assert lines[-1] == "1,201 of 3,000 images: 8.0 images a second, 1 failed"


def command(origin: Origin, root: Path, *arguments: str | Path) -> list[str]:
    base = ["-m", "data.get", "openimages", "--root", root, "--base-url", origin.url]
    return [sys.executable, *map(str, (*base, *arguments))]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs ignore it
    )


def begin_and_hang(origin: Origin, root: Path) -> tuple[list[str], list[str], subprocess.Popen[str]]:
    """A command of which eight images have come and two workers hang half-way; 12 more are to come."""
    names = [name_of(number) for number in range(22)]
    publish(origin, *names)
    for name in names[8:10]:
        origin.faults[f"/{name}.jpg"] = ["hang"]
    arguments = command(origin, root, "--list", write_list(root / "list.txt", *names), "--workers", "2")
    process = start(arguments)
    for _ in range(2):
        assert origin.hanging.acquire(timeout=60)
    parts = [root / "openimages/train" / f".{number:016x}.jpg.part" for number in (8, 9)]
    sizes = [len(origin.files[f"/{name}.jpg"]) // 2 for name in names[8:10]]
    end = time.monotonic() + 20  # before the command gives up reading, which would write what it has
    while [part.stat().st_size if part.exists() else 0 for part in parts] != sizes:
        assert time.monotonic() < end
        time.sleep(0.01)
    return names, arguments, process


def finish(origin: Origin, root: Path, names: list[str], arguments: list[str]) -> None:
    """The same command completes the collection: what is there stays, what is half there is continued."""
    origin.release.set()
    before = present(root / "openimages")
    assert sum(path.endswith(".jpg") for path in before) == 8
    origin.log.clear()
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{root / 'openimages'}: 22 images, 14 of them fetched now\n"
    assert present(root / "openimages") == fetched(origin, *names)
    assert origin.asked() == {f"/{name}.jpg": 1 for name in names[8:]}
    halves = {f"/{name}.jpg": f"bytes={len(origin.files[f'/{name}.jpg']) // 2}-" for name in names[8:10]}
    assert {path: span for path, span in origin.log if span} == halves


@pytest.mark.faults
def test_killed_command_goes_on(origin, tmp_path):
    names, arguments, process = begin_and_hang(origin, tmp_path)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert len(folder_source(tmp_path / "openimages").items) == 8  # parts are no images
    finish(origin, tmp_path, names, arguments)


@pytest.mark.faults
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_interrupted_command_says_so_and_goes_on(origin, tmp_path, sign):
    names, arguments, process = begin_and_hang(origin, tmp_path)
    process.send_signal(sign)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "openimages: interrupted; the same command goes on"
    assert "Traceback" not in err
    finish(origin, tmp_path, names, arguments)


def test_command_fails_when_images_fail(origin, tmp_path):
    publish(origin, name_of(1), name_of(3))
    given = write_list(tmp_path / "list.txt", name_of(1), name_of(2))
    held_out = write_list(tmp_path / "held-out.txt", name_of(3))
    arguments = command(origin, tmp_path / "root", "--list", given, "--test-list", held_out)
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    folder = tmp_path / "root" / "openimages"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: openimages: 1 of 3 images could not be fetched ({name_of(2)}: HTTP 404 Not Found); "
        f"{folder / 'failed.tsv'} lists them all, the same command tries them again\n"
    )
    assert sorted(os.listdir(folder / "train")) == [f"{1:016x}.jpg"]
    assert sorted(os.listdir(folder / "test")) == [f"{3:016x}.jpg"]
    assert {item.split for item in folder_source(folder).items} == {"train", "test"}
