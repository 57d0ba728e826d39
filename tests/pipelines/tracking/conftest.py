"""A courier that tells a SQLite store, and an outbox that nobody delivers."""

from collections.abc import Iterator

import pytest

from pipelines.tracking.courier import Courier
from pipelines.tracking.delivery import Server
from pipelines.tracking.outbox import Outbox
from tests.support.publisher import HERE, Screen
from tests.support.servers import empty_database


@pytest.fixture
def store(tmp_path) -> Server:
    (tmp_path / "mlflow.db").write_bytes(empty_database())
    return Server(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.fixture
def screen() -> Screen:
    return Screen()


@pytest.fixture
def courier(store, screen) -> Iterator[Courier]:
    with Courier(store, "recipe", screen) as courier:
        yield courier


@pytest.fixture
def outbox(tmp_path) -> Outbox:
    return Outbox.new(tmp_path, HERE, "digits")
