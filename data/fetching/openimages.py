"""Seeds from Open Images (Kuznetsova et al. 2020): lists of images, fetched by threads into train/ and test/.

The images are CC BY 2.0, as Open Images lists them (verify it for your use); its annotations are CC BY 4.0.
"""

import fcntl
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from data.fetching.download import Downloader, DownloadError
from data.fetching.rate import Stopped
from data.fetching.tally import Tally
from data.formats import open_image

BUCKET = "https://open-images-dataset.s3.amazonaws.com"
FOLDER = "openimages"
_LINE = re.compile(r"(train|validation|test)/[0-9a-f]{16}")
_SHOWN = 20  # bad lines that are named
_AWAY_IN_A_ROW = 24  # images that fail for want of a server, until the rest is not tried
_GRACE_SECONDS, _WATCH_SECONDS = 2.0, 0.2
_ALLOWED = "give train, validation or test, '/' and an id of 16 of 0-9a-f on each line"


class ListError(ValueError):
    """Lists that cannot be used: one text a line."""


class TroubleError(Exception):
    """The rest cannot be fetched either; the text says why."""


class Seed(NamedTuple):
    """name: split/imageid at Open Images; file: where it belongs."""

    name: str
    file: Path


def plan(
    folder: Path, train_lists: Iterable[Path], test_lists: Iterable[Path], max_images: int | None
) -> list[Seed]:
    """The seeds of the lists in their order, once each; `max_images` takes the first of train and of test.

    Raises ListError with file and line of every line that is not split/imageid, or names an image that is
    elsewhere before (held-out seeds are not trained on), and for files that are empty or cannot be read.
    """
    problems: list[str] = []
    homes: dict[str, tuple[str, str]] = {}  # image id -> folder and name
    for home, lists in (("train", train_lists), ("test", test_lists)):
        for path in lists:
            for line, name in _lines(path, problems):
                before = homes.setdefault(name.partition("/")[2], (home, name))
                if before != (home, name):
                    problems.append(f"{path}:{line}: {name}; it goes into {before[0]} as {before[1]} already")
    if problems:
        more = len(problems) - _SHOWN
        raise ListError("\n".join(problems[:_SHOWN] + [f"and {more:,} more lines"] * (more > 0)))
    seeds: dict[str, list[Seed]] = {"train": [], "test": []}
    for image_id, (home, name) in homes.items():
        seeds[home].append(Seed(name, folder / home / f"{image_id}.jpg"))
    return seeds["train"][:max_images] + seeds["test"][:max_images]


def _lines(path: Path, problems: list[str]) -> Iterator[tuple[int, str]]:
    """(number, text) of good lines; blank ones are passed over, others added to `problems`."""
    empty = True
    try:
        with path.open(encoding="utf-8-sig", errors="backslashreplace") as file:
            for number, text in enumerate(map(str.strip, file), start=1):
                empty &= not text
                if _LINE.fullmatch(text):
                    yield number, text
                elif text:
                    problems.append(f"{path}:{number}: {text[:80]!r}; {_ALLOWED}")
    except OSError as error:
        problems.append(f"{path}: {error.strerror}; {_ALLOWED}")
    else:
        problems += [f"{path}: no line in it; {_ALLOWED}"] * empty


def check_image(path: Path) -> None:
    """Decodes the whole file. Raises ValueError when it cannot."""
    try:
        with open_image(path) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a whole image: {str(error).replace(str(path), path.name)}") from error


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Makes the folder and keeps others out. Raises TroubleError while another process fetches into it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TroubleError(f"{folder}: another command fetches into it; wait for its end") from error
        yield


class Crew:
    """Threads that fetch seeds until none is left, or told to stop."""

    def __init__(self, downloader: Downloader, base_url: str, stop: threading.Event) -> None:
        self._downloader, self._base_url, self._stop = downloader, base_url.rstrip("/"), stop
        self._lock = threading.Lock()

    def fetch(
        self, folder: Path, seeds: Sequence[Seed], tally: Tally, num_workers: int, watch: Callable[[], None]
    ) -> None:
        """Fetches seeds whose file is not there; keeps `tally` and calls `watch` a few times a second.

        What failed is in `folder`/failed.tsv at the end, however it comes. Raises TroubleError when nobody
        answers any more or the disk fails. What was half there then, or at Ctrl-C, is continued next time.
        """
        with alone(folder):
            lacking = missing(seeds)
            tally.num_there = len(seeds) - len(lacking)
            try:
                self._run(iter(lacking), tally, num_workers, watch)
            finally:
                tally.write_failed(folder)
        if tally.trouble:
            raise TroubleError(tally.trouble)
        assert tally.num_present + len(tally.failed) == tally.num_wanted, "a thread ended early"

    def _run(
        self, pending: Iterator[Seed], tally: Tally, num_workers: int, watch: Callable[[], None]
    ) -> None:
        threads = [
            threading.Thread(target=self._work, args=(pending, tally), daemon=True)
            for _ in range(num_workers)
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(_WATCH_SECONDS)
                    watch()
        finally:
            self._stop.set()
            end = time.monotonic() + _GRACE_SECONDS  # a read that hangs is not waited for
            for thread in threads:
                thread.join(max(0.0, end - time.monotonic()))

    def _work(self, pending: Iterator[Seed], tally: Tally) -> None:
        while (seed := self._next(pending)) and not self._stop.is_set():
            try:
                self._downloader.fetch(f"{self._base_url}/{seed.name}.jpg", seed.file, check_image)
            except Stopped:
                return
            except DownloadError as error:
                self._note_failure(tally, seed, error)
            except OSError as error:  # the disk's: the network's are DownloadErrors
                tally.trouble = f"{error.filename or seed.file}: {error.strerror}"
                self._stop.set()
            else:
                with self._lock:
                    tally.num_fetched += 1
                    tally.away_in_a_row = 0

    def _next(self, pending: Iterator[Seed]) -> Seed | None:
        with self._lock:
            return next(pending, None)

    def _note_failure(self, tally: Tally, seed: Seed, error: DownloadError) -> None:
        with self._lock:
            tally.failed[seed.name] = str(error)
            tally.away_in_a_row = tally.away_in_a_row + 1 if error.away else 0
            if tally.away_in_a_row == _AWAY_IN_A_ROW:
                tally.trouble = f"{_AWAY_IN_A_ROW} images in a row got no answer, the last: {error}"
                self._stop.set()


def missing(seeds: Sequence[Seed]) -> list[Seed]:
    """Those whose file is not there, or empty as a power failure leaves it; makes their folders."""
    there: set[str] = set()
    for folder in {seed.file.parent for seed in seeds}:
        folder.mkdir(exist_ok=True)
        with os.scandir(folder) as entries:
            there |= {entry.path for entry in entries if entry.stat().st_size}
    return [seed for seed in seeds if str(seed.file) not in there]
