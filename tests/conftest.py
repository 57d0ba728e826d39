"""Fixtures shared by all packages. The expensive ones are made once for a whole test session."""

import subprocess
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.readme import COMMANDS, README, RUNS, SHELL, SMALLER
from tests.support.readme import run as run_as_reader
from tests.support.running import ROOT, FinishedRun, Result, run_python


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in tests/faults/ carries its marker."""
    for item in items:
        if "tests/faults/" in item.path.as_posix():
            item.add_marker(pytest.mark.faults)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Seconds of each folder of tests, beside pytest's own list of the slowest."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[str(Path(report.location[0]).parent)] += report.duration
    if len(seconds) > 1:
        terminalreporter.section("seconds by folder")
        for folder, own in seconds.most_common():
            terminalreporter.line(f"{own:8.1f}  {own / seconds.total():4.0%}  {folder}")


@pytest.fixture(scope="session")
def pipeline() -> Callable[..., Result]:
    """Runs `python pipelines/run.py ...` in a process of its own and waits for it."""
    return partial(run_python, str(ROOT / "pipelines" / "run.py"))


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """A user's working folder: links to the project's files, plus images."""
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
def demo(place) -> FinishedRun:
    """The reduced `digits` run that most whole-run tests look at: what `make demo` runs, with fewer steps."""
    assert "make demo" in COMMANDS
    said = subprocess.run(["make", "-n", "demo"], cwd=ROOT, env=SHELL, capture_output=True, text=True).stdout
    command = said.strip().splitlines()[-1].replace(".venv/bin/python", "python")
    assert f"`{command}`" in README
    done = run_as_reader(f"{command} --json", place, SMALLER)
    assert done.returncode == 0, done.stderr
    return FinishedRun(place / "runs", Result(done.returncode, done.stdout, done.stderr))


@pytest.fixture(scope="session")
def demo_again(demo, pipeline) -> Result:
    """The same command once more, when everything is cached."""
    return pipeline(*demo.arguments(), "--json")


@pytest.fixture(scope="session")
def changed_demo(demo, place) -> list[subprocess.CompletedProcess[str]]:
    """The README's changed setting: its plan, and its run in the same workdir."""
    commands = [command for command in RUNS if "contrastive.step_size" in command]
    return [run_as_reader(command, place, SMALLER) for command in commands]
