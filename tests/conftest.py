"""Fixtures shared by all rooms."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.readme import COMMANDS, README, RUNS, SHELL, SMALLER
from tests.support.readme import run as run_as_reader
from tests.support.running import ROOT, Result, command


@pytest.fixture(scope="session")
def pipeline() -> Callable[..., Result]:
    """Runs `python pipelines/run.py ...` in a process of its own and waits for it."""

    def run(*arguments: str, timeout: float = 600, cwd: Path = ROOT) -> Result:
        done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=timeout, cwd=cwd)
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """Where a reader stands: the project's folder, with a `runs/` and images of their own."""
    place = tmp_path_factory.mktemp("project")
    for name in ("pipelines", "atjem", "data", "sweeps", "Makefile", "pyproject.toml", ".venv"):
        if (ROOT / name).exists():
            (place / name).symlink_to(ROOT / name)
    rng = np.random.default_rng(0)
    for index in range(60):
        folder = place / "IMAGES" / ("cat" if index % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return place


@pytest.fixture(scope="session")
def demo(place) -> subprocess.CompletedProcess[str]:
    """What `make demo` runs, with fewer steps."""
    assert "make demo" in COMMANDS
    said = subprocess.run(["make", "-n", "demo"], cwd=ROOT, env=SHELL, capture_output=True, text=True).stdout
    command = said.strip().splitlines()[-1].replace(".venv/bin/python", "python")
    assert f"`{command}`" in README
    return run_as_reader(command, place, SMALLER)


@pytest.fixture(scope="session")
def changed_demo(demo, place) -> list[subprocess.CompletedProcess[str]]:
    """The plan of a changed setting, and the run."""
    commands = [command for command in RUNS if "contrastive.step_size" in command]
    return [run_as_reader(command, place, SMALLER) for command in commands]
