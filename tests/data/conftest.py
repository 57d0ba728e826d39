"""Small collections made on the spot: folders of pictures, and shards whose pixels are known."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image

from data.decode import ENCODERS
from data.shards import Dataset, Encoded, write_manifest, write_split
from tests.support.data_files import write_images as written_images
from tests.support.hostile import Answer
from tests.support.hostile_files import ask_sources
from tests.support.origin import Origin, serving
from tests.support.planted import ACCESS_KEY, SECRET_KEY
from tests.support.running import ROOT
from tests.support.servers import bucket_of
from tests.support.shards import write_known_shards


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of hostile collections are slow, whichever comes first: all of them share one process."""
    for item in items:
        if "hostile_sources" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@dataclass(frozen=True)
class KnownShards:
    """A folder of shards with the pixels and labels that were put into it, in the manifest's order."""

    folder: Path
    pixels: dict[str, np.ndarray]
    labels: dict[str, list[int]]


@pytest.fixture(scope="session")
def write_images() -> Callable[..., Path]:
    """write_images(root, *relative_names) makes a random 7x5 RGB picture for each name, all different."""
    return written_images


@pytest.fixture(scope="session", params=[1, 3], ids=["grey", "rgb"])
def known_shards(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> KnownShards:
    """Two splits of random 6x6 images over several shards. Shared by all tests: not to be changed."""
    return _make_shards(tmp_path_factory.mktemp("shards"), channels=request.param)


@pytest.fixture
def own_shards(tmp_path: Path) -> KnownShards:
    """The same in RGB, for one test alone to damage."""
    return _make_shards(tmp_path / "shards", channels=3)


def _make_shards(folder: Path, channels: int) -> KnownShards:
    rng, nums = np.random.default_rng(channels), {"train": 11, "test": 5}
    pixels = {
        split: rng.integers(0, 256, (num, channels, 6, 6), dtype=np.uint8) for split, num in nums.items()
    }
    labels = {split: rng.integers(0, 3, num).tolist() for split, num in nums.items()}
    write_known_shards(folder, pixels, labels)
    return KnownShards(folder, pixels, labels)


@dataclass(frozen=True)
class KnownFrames:
    """A folder of shards of whole frames, with what was put into it: encoded files, in order."""

    folder: Path
    payloads: list[bytes]


@pytest.fixture(params=["png", "jpg"])
def known_frames(request: pytest.FixtureRequest, tmp_path: Path) -> KnownFrames:
    """One split of smooth frames of several sizes that are seen at 16x16, as png or jpg."""
    folder = tmp_path / "frames"
    folder.mkdir()
    rng = np.random.default_rng(0)
    sizes = [(40, 30), (30, 40), (24, 24), (64, 20), (18, 18), (16, 33)]
    coarse = [Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)) for _ in sizes]
    images = [image.resize(size) for image, size in zip(coarse, sizes, strict=True)]
    payloads = [ENCODERS[request.param](image) for image in images]
    encoded = [
        Encoded(f"train-{n:08d}", payload, n % 2, "ab"[n % 2], "train", *size, f"{n}.png", request.param)
        for n, (payload, size) in enumerate(zip(payloads, sizes, strict=True))
    ]
    sha256 = write_manifest(folder, write_split(folder, "train", encoded, 4))
    Dataset(3, 16, ["a", "b"], whole=True, counts={"train": len(sizes)}, sha256=sha256).write(folder)
    return KnownFrames(folder, payloads)


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """run_python(*arguments, **environment) runs the interpreter from the repository's root."""

    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """Address of an S3-compatible server on this machine, as 'HOST:PORT'; it takes any credentials."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(object_store: str) -> str:
    """Address of a new, empty prefix in a bucket, credentials included: all that pyarrow.fs needs."""
    options = f"endpoint_override={object_store}&scheme=http&region=us-east-1"
    name = f"bucket-{uuid4().hex[:12]}"
    bucket_of(int(object_store.rpartition(":")[2])).create_dir(name)
    return f"s3://{ACCESS_KEY}:{SECRET_KEY}@{name}/shards?{options}"


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Origin]:
    """A server of images on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        yield server


@pytest.fixture(scope="session")
def hostile_sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """How each collection of tests/support/hostile_files.py is answered."""
    return ask_sources(tmp_path_factory.mktemp("hostile"))
