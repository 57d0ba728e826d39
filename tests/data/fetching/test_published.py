"""Collections with published checksums: what is there is not fetched, the rest is explained."""

import shutil
import socket
from pathlib import Path

import pytest
from torchvision import datasets

from data.fetching.published import PublishedError, fetch_published
from tests.support.published_files import (
    CIFAR,
    pack_cifar,
    publish_cifar,
    publish_idx,
    write_cifar,
    write_idx,
)
from tests.support.servers import free_port


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> str:
    """Every class fetches from an address of this computer where nobody listens."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    url = f"http://127.0.0.1:{free_port()}/"
    for kind in (datasets.CIFAR10, datasets.CIFAR100):
        monkeypatch.setattr(kind, "url", url + kind.filename)
    for kind in (datasets.MNIST, datasets.FashionMNIST):
        monkeypatch.setattr(kind, "mirrors", [url])
    return url


@pytest.mark.parametrize(
    ("name", "file", "place"),
    [
        ("cifar10", "cifar-10-python.tar.gz", "."),
        ("cifar100", "cifar-100-python.tar.gz", "."),
        ("mnist", "t10k-labels-idx1-ubyte.gz from ", "MNIST/raw"),
        ("fashion-mnist", "t10k-labels-idx1-ubyte.gz from ", "FashionMNIST/raw"),
    ],
)
def test_without_a_network_the_address_and_the_place_are_told(tmp_path, closed, name, file, place):
    with pytest.raises(PublishedError) as caught:
        fetch_published(name, tmp_path / "new")
    line = str(caught.value)
    assert all(part in line for part in ("Connection refused", closed, file))
    assert f"by hand into {(tmp_path / 'new' / place).resolve()} and run the same command again" in line
    assert socket.getdefaulttimeout() is None  # other sockets' timeouts are left alone


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_altered_archive_is_not_unpacked(tmp_path, monkeypatch, origin, name):
    files = (datasets.CIFAR10.filename, *(file for file, _ in datasets.MNIST.resources))
    origin.files = {f"/{file}": b"altered" for file in files}
    monkeypatch.setattr(datasets.CIFAR10, "url", f"{origin.url}/{datasets.CIFAR10.filename}")
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{origin.url}/"])
    with pytest.raises(PublishedError, match="the download's MD5 differs from the published one"):
        fetch_published(name, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(("ubyte", "py"))]


def publish(monkeypatch: pytest.MonkeyPatch, root: Path, name: str) -> Path:
    """Packed files that count as the published ones. Returns where they belong unpacked."""
    if name in CIFAR:
        write_cifar(root, name)
        pack_cifar(root, name)
        publish_cifar(monkeypatch, root, name)
        shutil.rmtree(root / CIFAR[name].base_folder)
        return root / CIFAR[name].base_folder
    folder = write_idx(root / "MNIST" / "raw", packed=True)
    publish_idx(monkeypatch, name, folder)
    return folder


@pytest.mark.parametrize(
    ("name", "num_images", "files"),
    [
        ("cifar10", 30, ["data_batch_3", "batches.meta"]),
        ("mnist", 17, ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]),
    ],
)
def test_archive_that_is_there_is_unpacked_without_a_network(
    tmp_path, monkeypatch, closed, name, num_images, files
):
    """Unpacks again where a file is damaged. Complete files need no archive."""
    place = publish(monkeypatch, tmp_path, name)
    told = f"{num_images} images in {place}"
    assert fetch_published(name, tmp_path) == told
    for file in files:
        before = (place / file).read_bytes()
        (place / file).write_bytes(before[:-1])
        assert fetch_published(name, tmp_path) == told
        assert (place / file).read_bytes() == before
    for archive in tmp_path.rglob("*.gz"):
        archive.unlink()
    assert fetch_published(name, tmp_path) == told
