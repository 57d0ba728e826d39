"""Fixtures shared by all rooms."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from running import ROOT, Result, command


@pytest.fixture(scope="session")
def pipeline() -> Callable[..., Result]:
    """Runs `python pipelines/run.py ...` in a process of its own and waits for it."""

    def run(*arguments: str, timeout: float = 600, cwd: Path = ROOT) -> Result:
        done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=timeout, cwd=cwd)
        return Result(done.returncode, done.stdout, done.stderr)

    return run
