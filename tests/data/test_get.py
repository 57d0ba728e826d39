"""Collections by name: what is there is not fetched, what cannot be fetched is explained in one line."""

import gzip
import hashlib
import pickle
import re
import socket
import struct
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import typer
from torchvision import datasets

from data.fetching.openimages import BUCKET
from data.get import main


def get(name: str, root: Path, **options: object) -> None:
    defaults = {"train_lists": None, "test_lists": None, "workers": 8, "per_second": 50.0}
    main(name, root, **{**defaults, "max_images": None, "base_url": BUCKET, **options})


def refusal(capsys: pytest.CaptureFixture[str], name: str, root: Path, **options: object) -> tuple[int, str]:
    """Exit code and the one line on stderr."""
    with pytest.raises(typer.Exit) as caught:
        get(name, root, **options)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return caught.value.exit_code, err.rstrip("\n")


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> str:
    """Every class fetches from an address of this computer where nobody listens."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/"
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
def test_without_a_network_the_address_and_the_place_are_told(tmp_path, capsys, closed, name, file, place):
    code, line = refusal(capsys, name, tmp_path / "new")
    assert code == 1
    assert line.startswith(f"error: {name}: ")
    assert "Connection refused" in line
    assert closed in line
    assert file in line
    assert f"by hand into {(tmp_path / 'new' / place).resolve()} and run the same command again" in line


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_altered_archive_is_not_unpacked(tmp_path, capsys, monkeypatch, closed, name):
    served = tmp_path / "served"
    served.mkdir()
    for file in ("cifar-10-python.tar.gz", *(file for file, _ in datasets.MNIST.resources)):
        (served / file).write_bytes(b"altered")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=served)) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        monkeypatch.setattr(datasets.CIFAR10, "url", f"{url}cifar-10-python.tar.gz")
        monkeypatch.setattr(datasets.MNIST, "mirrors", [url])
        with pytest.raises(typer.Exit) as caught:
            get(name, tmp_path / "root")
        server.shutdown()
    assert caught.value.exit_code == 1
    line = capsys.readouterr().err.splitlines()[-1]  # after torchvision's progress
    assert line.startswith(f"error: {name}: ")
    assert "the download's MD5 differs from the published one" in line
    assert not list((tmp_path / "root").rglob("*ubyte"))
    assert not (tmp_path / "root" / PLACES["cifar10"]).exists()


def publish_cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CIFAR-10 of two images a batch, packed in `root`, whose MD5 sums are the published ones here."""
    folder = root / "packing" / datasets.CIFAR10.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    sums = {}
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"):
        batch = {"data": rng.integers(0, 256, (2, 3072), dtype=np.uint8), "labels": [3, 5]}
        content = pickle.dumps({"label_names": list("abcdefghij")} if "meta" in name else batch)
        (folder / name).write_bytes(content)
        sums[name] = hashlib.md5(content).hexdigest()
    archive = root / datasets.CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    for name, value in {
        "tgz_md5": hashlib.md5(archive.read_bytes()).hexdigest(),
        "train_list": [[name, sums[name]] for name in sums if name.startswith("data")],
        "test_list": [["test_batch", sums["test_batch"]]],
        "meta": datasets.CIFAR10.meta | {"md5": sums["batches.meta"]},
    }.items():
        monkeypatch.setattr(datasets.CIFAR10, name, value)


def publish_mnist(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An MNIST of three and of two images, likewise."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    resources = []
    for file, _ in datasets.MNIST.resources:
        count = 3 if "train" in file else 2
        shape = (count, 28, 28) if "images" in file else (count,)
        header = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
        (folder / file).write_bytes(gzip.compress(header + bytes(int(np.prod(shape)))))
        resources.append((file, hashlib.md5((folder / file).read_bytes()).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, "resources", resources)


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


PUBLISH = {"cifar10": publish_cifar, "mnist": publish_mnist}
PLACES = {"cifar10": "cifar-10-batches-py", "mnist": "MNIST/raw"}
SAID = {"cifar10": "12 images", "mnist": "5 images"}


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_archive_that_is_there_is_unpacked_without_a_network(tmp_path, capsys, monkeypatch, closed, name):
    PUBLISH[name](tmp_path, monkeypatch)
    get(name, tmp_path)
    assert capsys.readouterr().out == f"{name}: {SAID[name]} in {tmp_path / PLACES[name]}\n"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "data_batch_3"),
        ("cifar10", "batches.meta"),
        ("mnist", "train-images-idx3-ubyte"),
        ("mnist", "t10k-labels-idx1-ubyte"),
    ],
)
def test_damaged_files_are_unpacked_again(tmp_path, capsys, monkeypatch, closed, name, file):
    PUBLISH[name](tmp_path, monkeypatch)
    get(name, tmp_path)
    path = tmp_path / PLACES[name] / file
    before = path.read_bytes()
    damaged(path)
    get(name, tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_what_is_there_needs_no_archive(tmp_path, capsys, monkeypatch, closed, name):
    PUBLISH[name](tmp_path, monkeypatch)
    get(name, tmp_path)
    for archive in tmp_path.rglob("*.gz"):
        archive.unlink()
    get(name, tmp_path)
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_timeout_of_others_sockets_is_left_alone(tmp_path, capsys, closed):
    refusal(capsys, "cifar10", tmp_path)
    assert socket.getdefaulttimeout() is None


def test_imagenet_is_explained(tmp_path, capsys):
    code, line = refusal(capsys, "imagenet", tmp_path)
    assert code == 2
    for part in ("https://image-net.org/", "account", "non-commercial", "ILSVRC2012_img_train.tar"):
        assert part in line
    assert line.endswith(f"into {tmp_path / 'imagenet'}")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cifar-10", {}, "not known; use cifar10, cifar100, .*; did you mean 'cifar10'?"),
        ("digits", {}, "not known; .*come with scikit-learn"),
        ("mnist", {"train_lists": [Path("list")]}, "takes no lists"),
        ("imagenet", {"test_lists": [Path("list")]}, "takes no lists"),
        ("openimages", {}, "--list FILE or --test-list FILE is needed"),
        (
            "openimages",
            {"train_lists": [Path("no/where")]},
            "no/where: No such file or directory; give train",
        ),
        ("openimages", {"workers": 0}, "--workers 0: must lie between 1 and 256"),
        ("openimages", {"per_second": 0.0}, "--per-second 0: must be above 0"),
        ("openimages", {"per_second": float("nan")}, "--per-second nan: must be above 0"),
        ("openimages", {"max_images": 0}, "--max-images 0: must be at least 1"),
        ("openimages", {"base_url": "file:///etc"}, "--base-url file:///etc: must be a plain http"),
        ("openimages", {"base_url": "example.org"}, "--base-url example.org: must be"),
        ("openimages", {"base_url": "http://:80"}, "--base-url http://:80: must be"),
        ("openimages", {"base_url": "http://a:b@c"}, r"--base-url http://\*\*\*@c: must be"),
        ("openimages", {"base_url": "http://h:99999"}, "--base-url http://h:99999: must be"),
        ("openimages", {"base_url": "http://[h"}, r"--base-url http://\[h: must be"),
        ("openimages", {"base_url": "http://a..b"}, r"--base-url http://a\.\.b: must be"),
    ],
)
def test_bad_usage_is_one_line_and_writes_nothing(tmp_path, capsys, name, options, words):
    code, line = refusal(capsys, name, tmp_path / "root", **options)
    assert code == 2
    assert re.match(f"error: {name}: {words}", line)
    assert not (tmp_path / "root").exists()


def test_root_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    code, line = refusal(capsys, "cifar10", tmp_path / "file")
    assert (code, line) == (2, f"error: cifar10: --root {tmp_path / 'file'}: is a file; give a folder")


def test_root_that_cannot_be_made_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    given = tmp_path / "list.txt"
    given.write_text("train/00000000000000aa\n")
    code, line = refusal(capsys, "openimages", tmp_path / "file" / "below", train_lists=[given])
    assert code == 1
    assert line.endswith(f"{tmp_path / 'file' / 'below' / 'openimages'}: Not a directory")


def test_command_explains_itself_and_names_the_licences(run_python):
    done = run_python("-m", "data.get", "--help", COLUMNS="200", TERM="dumb")
    assert done.returncode == 0
    for part in ("cifar10", "fashion-mnist", "--test-list", "--per-second", "CC BY 2.0", "CC BY 4.0"):
        assert part in done.stdout
