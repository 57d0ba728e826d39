"""An object store, and the workdir of one test as several machines see it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from pipelines.workdir.remote import open_remote
from pipelines.workdir.shared_store import SharedStore, shared_store
from tests.support.servers import Proxy, proxy_of, s3_environment, s3_server


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
