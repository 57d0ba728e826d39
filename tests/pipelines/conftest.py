"""Command lines in the test's own process, and the artifacts that stages start from."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data.command_line import app_of
from pipelines.__main__ import app
from pipelines.commands.run import run
from pipelines.usage import run_app
from tests.support.running import ROOT, Result
from tests.support.shared_workdir import at, s3_folder, server, through
from tests.support.stages import make_inputs

__all__ = ["at", "s3_folder", "server", "through"]


@pytest.fixture
def cli(monkeypatch, capfd) -> Iterator[Callable[..., Result]]:
    """cli("compare", ...) is `python -m pipelines compare ...`; options alone are for `pipelines/run.py`.

    It runs in this process, which spares the seconds of a start: for what ends before any stage begins.
    """
    handler, environment = signal.getsignal(signal.SIGTERM), dict(os.environ)

    def call(*arguments: str, cwd: Path = ROOT) -> Result:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", [str(ROOT / "pipelines" / "run.py"), *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_app(app_of(run) if not arguments or arguments[0].startswith("-") else app)
        return Result(int(ended.value.code or 0), *capfd.readouterr())

    yield call
    signal.signal(signal.SIGTERM, handler)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> dict[str, Path]:
    """Prepared digits, an untrained network and a reference, shared by all tests of stages. Read-only."""
    return make_inputs(tmp_path_factory.mktemp("inputs"))
