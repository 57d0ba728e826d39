"""An object store, and the workdir of one test as several machines see it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from pipelines.workdir.remote import open_remote
from pipelines.workdir.shared_store import SharedStore, shared_store
from pipelines.workdir.store import Store
from tests.support.running import ROOT
from tests.support.servers import Proxy, proxy_of, s3_environment, s3_server

FINGERPRINT = "0123456789abcdef0123"
_OPEN = """
import sys
from pipelines.workdir.remote import open_remote
from pipelines.workdir.shared_store import shared_store
from tests.support.shared_workdir import FINGERPRINT, publish
store = shared_store(open_remote(sys.argv[1]))
"""


def publish(
    store: Store, files: dict[str, bytes], fingerprint: str = FINGERPRINT, stage: str = "sample", **facts: Any
) -> dict:
    """An artifact with these files. Returns its manifest."""
    manifest = {"fingerprint": fingerprint, "node": stage, "run_id": "r", "created": 1.0, "seconds": 0.1}
    with store.new_artifact(stage, fingerprint) as draft:
        for name, content in files.items():
            (draft.folder / name).parent.mkdir(exist_ok=True)
            (draft.folder / name).write_bytes(content)
        return draft.publish({**manifest, "identity": {}, "made_from": {}, "metrics": {}, **facts})


def python(store: SharedStore, code: str, port: int, cache: Path) -> "subprocess.Popen[str]":
    """Runs code that uses the `store` in a separate process, as a machine with this cache folder."""
    return subprocess.Popen(
        [sys.executable, "-c", _OPEN + code, store.place],
        env={**os.environ, **s3_environment(port, cache)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="session")
def s3_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("s3")


@pytest.fixture(scope="session")
def server(s3_folder) -> Iterator[int]:
    """The port of an S3-compatible server, shared by all tests."""
    with s3_server(s3_folder) as port:
        yield port


@pytest.fixture
def at(server, tmp_path, monkeypatch) -> Callable[..., SharedStore]:
    """at('a') is the workdir as machine a sees it; port: through which it reaches the server."""
    prefix = f"s3://lab/{uuid4().hex[:8]}"

    def see(machine: str, port: int = server) -> SharedStore:
        for name, value in s3_environment(port, tmp_path / machine).items():
            monkeypatch.setenv(name, value)
        return shared_store(open_remote(prefix))

    return see


@pytest.fixture
def through(server) -> Iterator[Proxy]:
    """A way to the server that can be disturbed."""
    with proxy_of(server) as proxy:
        yield proxy
