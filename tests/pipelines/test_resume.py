"""Killed and started again: the same command goes on, loses nothing, and ends with the very same weights."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from running import ROOT, command, reduced_arguments

import atjem
from pipelines.context import StageContext
from pipelines.recipe import load_recipe
from pipelines.stages.reference_stats import read_held_out
from pipelines.stages.sampler import FrechetCurve, Sampler

pytestmark = [pytest.mark.slow, pytest.mark.ray]

# The best model so far is part of what a checkpoint holds.
STEPS = {
    "stage2__steps": 400,
    "stage2__checkpoint_every": 20,
    "stage2__select": "best_frechet",
    "stage2__select_every": 50,
    "stage2__select_samples": 20,
    "evaluate__stage1": "false",
}


def _start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(
            command(*arguments), stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
        )


def _wait_for_step(workdir: Path, step: int, process: subprocess.Popen[bytes], log: Path) -> None:
    def is_there() -> bool:
        steps = [int(p.name[5:]) for p in workdir.glob("checkpoints/train_stage2/*/step_*")]
        return max(steps, default=0) >= step

    _wait_until(is_there, process, log)


def _wait_until(is_there: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if is_there():
            return
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    pytest.fail(f"not there after 300 s: {log.read_text()}")


def _weights(workdir: Path) -> bytes:
    (file,) = workdir.glob("artifacts/train_stage2/*/model.safetensors")
    return file.read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(pipeline, tmp_path_factory) -> bytes:
    workdir = tmp_path_factory.mktemp("whole")
    result = pipeline(*reduced_arguments(workdir, **STEPS), "--until", "train_stage2")
    assert result.code == 0, result.err
    return _weights(workdir)


@pytest.mark.parametrize(
    ("sign", "code"),
    [
        pytest.param(signal.SIGKILL, -9, id="kill"),
        pytest.param(signal.SIGINT, 130, id="int"),
        pytest.param(signal.SIGTERM, 130, id="term", marks=pytest.mark.faults),
    ],
)
def test_resumed_run_equals_the_uninterrupted_one(pipeline, uninterrupted, tmp_path, sign, code):
    log = tmp_path / "log"
    arguments = [*reduced_arguments(tmp_path / "runs", **STEPS), "--until", "train_stage2"]
    process = _start(arguments, log)
    _wait_for_step(tmp_path / "runs", 40, process, log)
    os.kill(process.pid, sign)
    assert process.wait(timeout=60) == code, log.read_text()
    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("digits").experiment_id
    (parent,) = client.search_runs([experiment], "tags.`atjem.kind` = 'pipeline'")
    assert parent.info.status == ("RUNNING" if sign == signal.SIGKILL else "KILLED")
    if sign == signal.SIGKILL:
        time.sleep(5)  # its Ray processes notice within seconds and end
    status = pipeline(*arguments, "--status", "--json").json
    stage2 = next(row for row in status["stages"] if row["name"] == "train_stage2")
    assert stage2["status"] == "unfinished"
    assert stage2["checkpoint_step"] >= 40

    result = pipeline(*arguments, "--json")
    assert result.code == 0, result.err
    statuses = {stage["name"]: stage["status"] for stage in result.json["stages"]}
    assert statuses["train_stage2"] == "resumed"
    assert statuses["train_stage1"] == "cached"
    assert _weights(tmp_path / "runs") == uninterrupted

    assert result.json["run_id"] == parent.info.run_id
    runs = client.search_runs([experiment], "")
    assert [run.info.status for run in runs] == ["FINISHED"] * len(runs)
    (stage_run,) = [run for run in runs if run.data.tags.get("atjem.stage") == "train_stage2"]
    steps = [point.step for point in client.get_metric_history(stage_run.info.run_id, "loss")]
    assert steps == list(range(5, 401, 5))


def test_autoattack_that_was_killed_goes_on_with_the_next_batch(pipeline, tmp_path):
    changed = {"evaluate__stage1": "false", "evaluate__robust__num_images": 150}
    arguments = [*reduced_arguments(tmp_path / "runs", **changed), "--until", "evaluate_classifier"]
    process = _start(arguments, tmp_path / "log")
    kept = "checkpoints/evaluate_classifier/*/autoattack/[!.]*.safetensors"
    _wait_until(lambda: any((tmp_path / "runs").glob(kept)), process, tmp_path / "log")
    process.kill()
    process.wait(60)
    time.sleep(5)  # its Ray processes notice within seconds and end

    result = pipeline(*arguments, "--json")
    assert result.code == 0, result.err
    stages = {stage["name"]: stage for stage in result.json["stages"]}
    resumed = {name for name, stage in stages.items() if stage["status"] == "resumed"}
    assert resumed
    assert resumed <= {"evaluate_classifier", "evaluate_classifier.plain"}
    assert not list((tmp_path / "runs").glob(kept))
    files = {name: Path(stages[name]["artifact"]) / "robust.parquet" for name in resumed}
    before = {name: pq.ParquetFile(file).read() for name, file in files.items()}
    assert all(set(table["broken_by"].to_pylist()) > {""} for table in before.values())

    anew = pipeline(*arguments, "--force", "evaluate_classifier", "--json")
    assert anew.code == 0, anew.err
    assert {name: pq.ParquetFile(file).read() for name, file in files.items()} == before
    assert anew.json["metrics"]["robust_accuracy"] == result.json["metrics"]["robust_accuracy"]


def test_own_folders_and_two_workers(pipeline, tmp_path):
    """Class folders for data, a flat folder for seeds, one damaged image; two Ray Train workers.

    Images are kept whole and cropped at random; the best of two models is kept.
    """
    for label in ("cat o'nine", "chien é"):
        folder = tmp_path / "images" / label
        folder.mkdir(parents=True)
        for index in range(50):
            Image.effect_noise((12, 9), 40 + 60 * (label < "ch")).save(folder / f"{index} x.png")
    (tmp_path / "images" / "chien é" / "broken.png").write_bytes(b"no image")
    (tmp_path / "seeds").mkdir()
    for index in range(60):
        Image.effect_noise((16, 16), 90).save(tmp_path / "seeds" / f"{index}.jpg")
    sizes = {"stage1__batch_size": 16, "stage2__batch_size": 16, "stage1__steps": 6, "stage2__steps": 6}
    arguments = reduced_arguments(
        tmp_path / "runs", **sizes, data__in=tmp_path / "images", data__ood=tmp_path / "seeds"
    )
    changes = (
        "compute.num_workers=2",
        "data.short_side=10",
        "data.encoding=jpg",
        "stage2.augment=rrc+flip",
        "stage2.select=best_frechet",
        "stage2.select_every=3",
        "stage2.select_samples=20",
        "sample.num_samples=20",
        "sample.num_selection=20",
        "sample.batch_size=8",
    )
    extra = [word for change in changes for word in ("--set", change)]
    result = pipeline(*arguments, *extra, "--json")
    assert result.code == 0, result.err
    metrics = result.json["metrics"]
    assert metrics["num_rejected_images"] == 1
    assert metrics["num_ood_test_images"] == 12
    assert 0 <= metrics["clean_accuracy"] <= 1
    _check_choice(result.json, [*arguments, *extra])


def _check_choice(result: dict[str, Any], arguments: list[str]) -> None:
    """The model kept is the best one seen, and one process finds the distance that two workers found."""
    folders = {row["name"]: Path(row["artifact"]) for row in result["stages"]}
    curve = json.loads((folders["train_stage2"] / "curve.json").read_text())
    looks = {p["step"]: p["selection_frechet_distance"] for p in curve if "selection_frechet_distance" in p}
    manifest = json.loads((folders["train_stage2"] / "manifest.json").read_text())
    selected = manifest["metrics"]["selected_step"]
    assert set(looks) == {3, 6}
    assert looks[selected] == min(looks.values())
    recipe, _ = load_recipe("digits", arguments[arguments.index("--set") + 1 :: 2])
    context = StageContext(
        recipe.settings,
        {"data": folders["preprocess"]},
        Path(),
        Path(),
        SilentReporter(),
        {},
    )
    reference = folders["reference_stats"]
    sampler = Sampler(context, atjem.load(folders["train_stage2"]), torch.device("cpu"))
    alone = FrechetCurve(reference, None, read_held_out(reference)).measure(sampler, 20)
    assert min(alone.values()) == pytest.approx(looks[selected], rel=1e-3)


class SilentReporter:
    def progress(self, done: int, total: int, unit: str, **watched: float) -> None: ...

    def points(self, points: Iterable[Mapping[str, float]]) -> None: ...

    def stopping(self) -> bool:
        return False
