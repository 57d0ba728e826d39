"""What was found by attacking: each of these once gave a wrong number, a traceback or lost work."""

import json
import os
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from tests.support.running import ROOT, command, reduced_arguments

# The shortest whole run: no stage-1 figures, no AutoAttack, nothing to choose.
FAST = {
    "stage1__steps": 6,
    "stage2__steps": 4,
    "evaluate__stage1": "false",
    "evaluate__robust__attack": "pgd",
    "sample__step_candidates": "[]",
    "sample__steps": 3,
    "stage1__batch_size": 16,
    "stage2__batch_size": 16,
}


def _paint(folder: Path, seed: int) -> None:
    """Bitmaps, whose size does not depend on what they show; written with one fixed time."""
    rng = np.random.default_rng(seed)
    for label in range(4):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        for index in range(20):
            path = folder / str(label) / f"{index}.bmp"
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
            os.utime(path, ns=(10**18, 10**18))


@pytest.mark.slow
@pytest.mark.ray
def test_run_killed_when_a_forced_stage_came_out_differently_leaves_nothing_stale(pipeline, tmp_path):
    images, workdir = tmp_path / "images", tmp_path / "runs"
    arguments = [*reduced_arguments(workdir, **FAST, data__in=images), "--until", "train_stage1"]
    _paint(images, seed=1)
    assert pipeline(*arguments).code == 0
    (manifest,) = workdir.glob("artifacts/preprocess/[!.]*/manifest.json")
    (model,) = workdir.glob("artifacts/train_stage1/[!.]*/model.safetensors")
    before, there = model.read_bytes(), manifest.read_bytes()
    _paint(images, seed=2)
    process = subprocess.Popen(command(*arguments, "--force", "preprocess"), cwd=ROOT)
    while process.poll() is None and (not manifest.exists() or manifest.read_bytes() == there):
        time.sleep(0.001)
    process.kill()
    process.wait()
    time.sleep(5)  # its Ray processes notice within seconds and end
    result = pipeline(*arguments, "--json")
    assert result.code == 0, result.err
    assert {s["name"]: s["status"] for s in result.json["stages"]}["train_stage1"] in ("ran", "resumed")
    assert model.read_bytes() != before


@pytest.mark.slow
@pytest.mark.ray
def test_divergence_is_a_failure_and_never_a_number(pipeline, tmp_path):
    arguments = reduced_arguments(tmp_path, **FAST, stage1__optimizer__lr=1e30)
    result = pipeline(*arguments, "--until", "train_stage2", "--json")
    assert result.code == 1
    assert "training diverged again: the loss is nan" in result.errors[0]
    statuses = {stage["name"]: stage["status"] for stage in result.json["stages"]}
    assert (statuses["train_stage1"], statuses["train_stage2"]) == ("failed", "skipped")
    status = pipeline(*arguments, "--status", "--json").json
    states = {stage["name"]: stage for stage in status["stages"]}
    assert states["preprocess"]["status"] == "finished"
    assert states["train_stage1"]["status"] == "failed"
    assert "training diverged" in states["train_stage1"]["reason"]


@pytest.mark.slow
@pytest.mark.ray
def test_jem_diverges_as_an_outcome_of_its_last_sound_checkpoint(pipeline, tmp_path):
    """What the method replaces: its instability is recorded, and the model before it is measured."""
    jem = {"stage2__objective": "jem", "stage2__sgld__buffer_size": 100, "stage2__sgld__steps": 2}
    ever_faster = {"stage2__optimizer__lr": 2e4, "stage2__optimizer__warmup_steps": 10**6}  # 0.02 more a step
    changed = FAST | jem | ever_faster | {"stage2__steps": 300}
    arguments = reduced_arguments(tmp_path, **changed)
    result = pipeline(*arguments, "--until", "sample", "--json")
    assert result.code == 0, result.err
    (folder,) = [Path(row["artifact"]) for row in result.json["stages"] if row["name"] == "train_stage2"]
    metrics = json.loads((folder / "manifest.json").read_text())["metrics"]
    assert 0 < metrics["steps"] < metrics["diverged_at_step"] <= 300
    weights = load_file(folder / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert result.json["metrics"]["diverged_at_step"] == metrics["diverged_at_step"]


@pytest.mark.slow
@pytest.mark.ray
def test_two_runs_at_once_take_turns(pipeline, tmp_path):
    """The second waits, then finds all of it finished: no stage runs twice, no point is logged twice."""
    arguments = [*reduced_arguments(tmp_path, **FAST), "--json"]
    with (tmp_path / "log").open("wb") as log:
        first = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=log, cwd=ROOT)
        deadline = time.monotonic() + 120
        while not (tmp_path / "mlflow.db").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        second = pipeline(*arguments)
        assert first.wait(timeout=300) == 0
    assert second.code == 0
    assert f"another run (process {first.pid}) works in this workdir" in second.err
    assert "made by another run meanwhile: preprocess" in second.err
    assert {stage["status"] for stage in second.json["stages"]} == {"cached"}
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        query = "select count(*) from metrics group by run_uuid, key, step having count(*) > 1"
        assert database.execute(query).fetchall() == []


@pytest.mark.ray
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_signal_before_any_stage_ends_with_130(tmp_path, sign):
    """Also when it comes while Ray starts; Ctrl-C also twice."""
    process = subprocess.Popen(
        command(*reduced_arguments(tmp_path), "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / ".lock").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.5)
    process.send_signal(sign)
    if sign == signal.SIGINT:
        time.sleep(0.2)
        process.send_signal(sign)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 130, err.decode()
    assert b"Traceback" not in err
    if out:
        assert json.loads(out.decode().strip().splitlines()[-1])["status"] == "interrupted"
