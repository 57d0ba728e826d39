"""Processes that make parts are killed in every stage that has some; the run ends as if left alone."""

import json
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.running import ROOT, command, reduced_arguments, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.ray]

STAGES = ("reference_stats", "sample", "evaluate_classifier")
CHANGES = {
    "compute__num_workers": 2,
    "compute__max_restarts": 9,
    "evaluate__batch_size": 10,
    "evaluate__robust__num_images": 60,
    "evaluate__counterfactual__num_images": 60,
    "sample__num_samples": 3000,
    "sample__batch_size": 100,
}


def run(workdir: Path, **changed: object) -> tuple[subprocess.Popen[bytes], Path]:
    log = workdir.with_suffix(".log")
    words = reduced_arguments(workdir, **CHANGES, **changed)
    with log.open("wb") as err, workdir.with_suffix(".out").open("wb") as out:
        process = subprocess.Popen(command(*words, "--json"), stdout=out, stderr=err, cwd=ROOT)
    return process, log


def metrics(workdir: Path) -> dict[str, Any]:
    result = json.loads(workdir.with_suffix(".out").read_text().splitlines()[-1])
    return {name: value for name, value in result["metrics"].items() if not name.endswith("per_second")}


def test_training_and_slow_parts_share_two_workers(tmp_path):
    """Training stages need all workers at once, while evaluation has some at work; neither waits for ever."""
    slow = {"evaluate__extractor_steps": 1500, "stage2__select": "best_frechet", "stage2__select_every": 15}
    process, log = run(tmp_path / "runs", **slow, stage2__select_samples=20)
    assert process.wait(timeout=1200) == 0, log.read_text()


def test_killed_parts_are_made_again(tmp_path):
    alone, _ = run(tmp_path / "alone")
    assert alone.wait(timeout=900) == 0
    process, log = run(tmp_path / "killed")
    killed: set[str] = set()

    def all_killed() -> bool:
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                words = " ".join(child.cmdline())
                for stage in set(STAGES) - killed:
                    if f"ray::{stage} parts" in words:
                        child.kill()
                        killed.add(stage)
        return len(killed) == len(STAGES)

    wait_for(all_killed, process, log)
    assert process.wait(timeout=900) == 0, log.read_text()
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "alone")
