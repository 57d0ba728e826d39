"""Collections with published checksums, fetched and unpacked through torchvision's classes."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

PUBLISHED = ("cifar10", "cifar100", "mnist", "fashion-mnist")
_CLASSES = dict(zip(PUBLISHED, ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST"), strict=True))
_TIMEOUT = 30.0  # seconds for connecting and for each read
# missing, altered, cut off, no network
_UNUSABLE = (RuntimeError, ValueError, AssertionError, KeyError, EOFError, OSError, HTTPException)


class PublishedError(Exception):
    """A collection that could not be fetched; the text says why and how to get it by hand."""


def fetch_published(name: str, root: Path) -> str:
    """Puts one of PUBLISHED into `root`, unless it is there and whole, and says where and how many images.

    An archive that lies where torchvision puts it is unpacked without a network if its MD5 is the published
    one. Raises PublishedError.
    """
    from torchvision import datasets

    kind = getattr(datasets, _CLASSES[name])
    place = root / kind.base_folder if _is_cifar(kind) else root / kind.__name__ / "raw"
    try:
        num_images = _num_images(kind, root)
    except _UNUSABLE:
        try:
            with _socket_timeout(_TIMEOUT):
                _fetch(kind, root, place)
            num_images = _num_images(kind, root)
        except _UNUSABLE as error:
            raise PublishedError(f"{_reason(error)}; {_by_hand(kind, root, place)}") from error
    return f"{num_images:,} images in {place}"


def _is_cifar(kind: Any) -> bool:
    return hasattr(kind, "tgz_md5")


def _num_images(kind: Any, root: Path) -> int:
    return sum(len(kind(str(root), train=train)) for train in (True, False))


def _fetch(kind: Any, root: Path, place: Path) -> None:
    """As `download=True` does, and also over damaged files that torchvision takes for good."""
    from torchvision.datasets.utils import download_and_extract_archive

    if _is_cifar(kind):
        download_and_extract_archive(kind.url, str(root), filename=kind.filename, md5=kind.tgz_md5)
        return
    for archive, _ in kind.resources:
        (place / archive).with_suffix("").unlink(missing_ok=True)
    kind(str(root), download=True)


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """torchvision sets none of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.replace("File not found or corrupted.", "the download's MD5 differs from the published one")


def _by_hand(kind: Any, root: Path, place: Path) -> str:
    if _is_cifar(kind):
        files, folder = kind.url, root
    else:
        names = [name for name, _ in kind.resources]
        files, folder = f"{', '.join(names)} from {kind.mirrors[0]}", place
    return f"download {files} by hand into {folder.resolve()} and run the same command again to unpack it"
