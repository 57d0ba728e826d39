"""Named collections fetched to where `data.root` looks for them: `python -m data.get NAME --root DIR`.

Licences: ImageNet is for non-commercial research and teaching; Open Images lists its images as CC BY 2.0, its
annotations are CC BY 4.0; MNIST is CC BY-SA 3.0, Fashion-MNIST MIT; CIFAR's author asks to be cited.
"""

import signal
import sys
import threading
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, NoReturn
from urllib.parse import urlsplit

import typer

from data.command_line import app_of, call, say_error
from data.fetching.download import Downloader
from data.fetching.openimages import BUCKET, FOLDER, Crew, ListError, Seed, TroubleError, plan
from data.fetching.published import PUBLISHED, PublishedError, fetch_published
from data.fetching.rate import TokenBucket
from data.fetching.tally import FAILED_FILE, Tally, Watch
from data.redact import redact

_IMAGENET = (
    "it needs an account: sign in at https://image-net.org/download.php, agree to its terms (non-commercial "
    "research and teaching) and put ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and "
    "ILSVRC2012_devkit_t12.tar.gz as they are into "
)
_NAMES = (*PUBLISHED, "imagenet", FOLDER)
_BAD_USAGE, _INTERRUPTED = 2, 130


def main(
    name: Annotated[str, typer.Argument(help=", ".join(_NAMES))],
    root: Annotated[Path, typer.Option(help="data.root: the folder to put it into")],
    train_lists: Annotated[
        list[Path] | None,
        typer.Option("--list", help="openimages: text file with train/f9e0434389a1d4dd, say, on each line"),
    ] = None,
    test_lists: Annotated[
        list[Path] | None,
        typer.Option("--test-list", help="openimages: the held-out seeds, in the same form"),
    ] = None,
    workers: Annotated[int, typer.Option(help="openimages: downloads at a time")] = 8,
    per_second: Annotated[float, typer.Option(help="openimages: requests, over all workers")] = 50,
    max_images: Annotated[int | None, typer.Option(help="openimages: the first of each kind of list")] = None,
    base_url: Annotated[str, typer.Option(help="openimages: what serves SPLIT/IMAGEID.jpg")] = BUCKET,
) -> None:
    """Fetch a named collection. Exit codes: 0 it is there, 1 not (all) of it, 2 bad usage, 130 interrupted.

    openimages fetches lists of Open Images (images listed as CC BY 2.0, annotations CC BY 4.0) and goes on
    where it stopped when it is run again.
    """
    root = root.expanduser()
    lists = train_lists or [], test_lists or []
    try:
        if root.exists() and not root.is_dir():
            _fail(name, f"--root {root}: is a file; give a folder", _BAD_USAGE)
        if name == FOLDER:
            _check_options(workers, per_second, max_images, base_url)
            _fetch_openimages(root / FOLDER, lists, workers, per_second, max_images, base_url)
        elif any(lists):
            _fail(name, f"takes no lists; they belong to {FOLDER}", _BAD_USAGE)
        elif name in PUBLISHED:
            typer.echo(f"{name}: {fetch_published(name, root)}")
        elif name == "imagenet":
            _fail(name, f"{_IMAGENET}{root.resolve() / name}", _BAD_USAGE)
        else:
            _fail(name, _unknown(name), _BAD_USAGE)
    except PublishedError as error:
        _fail(name, str(error), 1)
    except OSError as error:
        _fail(name, f"{error.filename or root}: {error.strerror}", 1)
    except KeyboardInterrupt:
        typer.echo(f"{name}: interrupted; the same command goes on", err=True)
        raise typer.Exit(_INTERRUPTED) from None


def _fail(name: str, text: str, code: int) -> NoReturn:
    for line in text.splitlines():
        say_error(f"{name}: {line}")
    raise typer.Exit(code)


def _unknown(name: str) -> str:
    near = get_close_matches(name, _NAMES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"not known; use {', '.join(_NAMES)} (digits and photographs-K come with scikit-learn){hint}"


def _check_options(workers: int, per_second: float, max_images: int | None, base_url: str) -> None:
    if not 1 <= workers <= 256:
        _fail(FOLDER, f"--workers {workers}: must lie between 1 and 256", _BAD_USAGE)
    if not 0 < per_second < float("inf"):
        _fail(FOLDER, f"--per-second {per_second:g}: must be above 0", _BAD_USAGE)
    if max_images is not None and max_images < 1:
        _fail(FOLDER, f"--max-images {max_images}: must be at least 1; leave it out to take all", _BAD_USAGE)
    if not _is_address(base_url):
        _fail(FOLDER, f"--base-url {redact(base_url)}: must be a plain http(s)://host/path", _BAD_USAGE)


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        host = (parts.hostname or "").encode("idna")
        plain = not (parts.query or parts.fragment or parts.username or parts.port == 0)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(host) and plain


def _fetch_openimages(
    folder: Path,
    lists: tuple[list[Path], list[Path]],
    workers: int,
    per_second: float,
    max_images: int | None,
    base_url: str,
) -> None:
    if not any(lists):
        _fail(FOLDER, "--list FILE or --test-list FILE is needed: the images to fetch", _BAD_USAGE)
    try:
        seeds: list[Seed] = plan(folder, *lists, max_images)
    except ListError as error:
        _fail(FOLDER, str(error), _BAD_USAGE)
    stop, tally = threading.Event(), Tally(len(seeds))
    crew = Crew(Downloader(TokenBucket(per_second, stop.wait)), base_url, stop)
    try:
        with Watch(tally) as watch:
            crew.fetch(folder, seeds, tally, workers, watch)
    except TroubleError as error:
        _fail(FOLDER, f"{error}; {tally.num_present:,} of {len(seeds):,} images are there", 1)
    if tally.failed:
        name, reason = next(iter(tally.failed.items()))
        _fail(
            FOLDER,
            f"{len(tally.failed):,} of {len(seeds):,} images could not be fetched ({name}: {reason}); "
            f"{folder / FAILED_FILE} lists them all, the same command tries them again",
            1,
        )
    typer.echo(f"{folder}: {len(seeds):,} images, {tally.num_fetched:,} of them fetched now")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(call(app_of(main)))
