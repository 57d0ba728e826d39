"""Fixtures: one torch thread, for bit-exact comparisons, and a finished sampling stage."""

from collections.abc import Iterator
from typing import Any

import pytest

from pipelines.context import StageContext
from pipelines.files import write_json
from pipelines.stages import sample
from tests.support.stages import make_context, one_thread


@pytest.fixture(scope="session", autouse=True)
def same_threads() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="session")
def made(tmp_path_factory, inputs) -> tuple[StageContext, dict[str, Any]]:
    """Finished samples: their context and their facts, which the manifest holds too. Read-only."""
    context = make_context(tmp_path_factory.mktemp("made"), inputs)
    facts = sample.run(context)
    write_json(context.folder / "manifest.json", facts)
    return context, facts
