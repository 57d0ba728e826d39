"""Killed and started again: the same command goes on, loses nothing, and ends with the very same weights."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from safetensors.torch import load_file

from pipelines.compute.spread import spread
from pipelines.compute.team import run_workers
from pipelines.context import Silent, StageContext
from pipelines.recipe import load_recipe
from pipelines.stages.inputs import load_network
from pipelines.stages.parts import Parts
from pipelines.stages.reference import read_held_out
from pipelines.stages.sample_parts import SHARD, Layout, SampleMaker
from pipelines.stages.sampler import FrechetCurve, Sampler
from tests.support.running import ROOT, command, reduced_arguments, wait_for
from tests.support.stages import one_thread

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
    """In a process group of its own, as a shell or a batch system starts it."""
    with log.open("wb") as file:
        return subprocess.Popen(
            command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            process_group=0,
        )


def _wait_for_step(workdir: Path, step: int, process: subprocess.Popen[bytes], log: Path) -> None:
    def is_there() -> bool:
        steps = [int(p.name[5:]) for p in workdir.glob("checkpoints/train_stage2/*/step_*")]
        return max(steps, default=0) >= step

    wait_for(is_there, process, log)


def _newest(workdir: Path) -> Path:
    """The last checkpoint of stage 2."""
    return max(workdir.glob("checkpoints/train_stage2/*/step_*"), key=lambda path: int(path.name[5:]))


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
    ("send", "sign", "code"),
    [
        pytest.param(os.kill, signal.SIGKILL, -9, id="kill"),
        pytest.param(os.kill, signal.SIGINT, 130, id="int"),
        pytest.param(os.kill, signal.SIGTERM, 130, id="term"),
        pytest.param(os.killpg, signal.SIGTERM, 130, id="term-group"),
        pytest.param(os.kill, signal.SIGUSR1, 130, id="usr1"),
    ],
)
def test_resumed_run_equals_the_uninterrupted_one(pipeline, uninterrupted, tmp_path, send, sign, code):
    log = tmp_path / "log"
    arguments = [*reduced_arguments(tmp_path / "runs", **STEPS), "--until", "train_stage2"]
    process = _start(arguments, log)
    _wait_for_step(tmp_path / "runs", 40, process, log)
    sent = time.monotonic()
    send(process.pid, sign)
    assert process.wait(timeout=60) == code, log.read_text()
    if code == 130:  # a checkpoint of the very step, within what a notice of preemption gives
        newest = _newest(tmp_path / "runs")
        assert newest.stat().st_mtime - time.time() + time.monotonic() - sent < 30
        assert int(newest.name.removeprefix("step_")) % 20
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


def test_lost_training_goes_on_by_itself(uninterrupted, tmp_path):
    """SIGKILL of the process that trains, in the middle of a step."""
    log = tmp_path / "log"
    process = _start([*reduced_arguments(tmp_path / "runs", **STEPS), "--until", "train_stage2"], log)
    _wait_for_step(tmp_path / "runs", 40, process, log)
    family = psutil.Process(process.pid).children(recursive=True)
    (training,) = [member for member in family if "ray::train_stage2" in " ".join(member.cmdline())]
    training.kill()
    assert process.wait(timeout=300) == 0, log.read_text()
    assert "going on from what it has saved (restart 1 of 2)" in log.read_text()
    assert _weights(tmp_path / "runs") == uninterrupted


def test_killed_sampling_and_autoattack_go_on_with_what_is_missing(pipeline, tmp_path):
    """Two SIGKILLs, one while each is at work; what was finished is used, and the end is the same."""
    changed = {
        "evaluate__stage1": "false",
        "evaluate__robust__attack": "autoattack",
        "evaluate__robust__num_images": 20,
        "evaluate__batch_size": 5,
        "sample__num_samples": 3_000,
        "sample__batch_size": 100,
    }
    both = reduced_arguments(tmp_path / "runs", **changed)
    plan = pipeline(*both, "--plan", "--json").json["stages"]
    prints = {stage["name"]: stage["fingerprint"] for stage in plan}  # the plain twin is attacked too
    attacked = f"checkpoints/evaluate_classifier/{prints['evaluate_classifier']}/robust/[!.]*.json"
    sampled = f"checkpoints/sample/{prints['sample']}/final/?????.json"
    made = (tmp_path / "runs").glob
    for until, kept in (("evaluate_fidelity", sampled), ("evaluate_classifier", attacked)):
        log = tmp_path / f"{until}.log"
        process = _start([*both, "--until", until], log)
        wait_for(lambda kept=kept: any(made(kept)), process, log)
        process.kill()
        process.wait(60)
        time.sleep(5)  # its Ray processes notice within seconds and end
    parts = [file.with_suffix(".safetensors") for file in made(sampled)]
    finished = {part.name: part.stat().st_mtime_ns for part in parts}
    assert 0 < len(finished) < 6

    result = pipeline(*both, "--json")
    assert result.code == 0, result.err
    stages = {stage["name"]: stage for stage in result.json["stages"]}
    assert {stages[name]["status"] for name in ("sample", "evaluate_classifier")} == {"resumed"}
    assert not list(made(attacked))
    assert not list(made(sampled))
    samples = Path(stages["sample"]["artifact"])
    assert len(list(samples.glob("samples-*.tar"))) == 6
    for name, time_ns in finished.items():  # the very same files
        assert (samples / f"samples-{name}").stat().st_mtime_ns == time_ns
    table = Path(stages["evaluate_classifier"]["artifact"]) / "robust.parquet"
    before = pq.ParquetFile(table).read()
    shards = {file.name: file.read_bytes() for file in samples.glob("samples-*.tar")}
    assert set(before["broken_by"].to_pylist()) > {""}

    anew = pipeline(*both, "--force", "evaluate_classifier", "--force", "sample", "--json")
    assert anew.code == 0, anew.err
    assert pq.ParquetFile(table).read() == before
    assert {file.name: file.read_bytes() for file in samples.glob("samples-*.tar")} == shards
    assert _figures(anew.json) == _figures(result.json)


def _figures(result: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in result["metrics"].items() if not name.endswith("per_second")}


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
        "sample.num_samples=1100",
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
    _check_samples(result.json, [*arguments, *extra], tmp_path / "alone")


def _folders(result: dict[str, Any]) -> dict[str, Path]:
    return {row["name"]: Path(row["artifact"]) for row in result["stages"]}


def _context(arguments: list[str], inputs: dict[str, Path], checkpoints: Path) -> StageContext:
    changes = (*arguments[arguments.index("--set") + 1 :: 2], "compute.num_workers=1")
    recipe, _ = load_recipe("digits", changes)
    return StageContext(recipe.settings, inputs, Path(), checkpoints, Silent(), {}, run_workers, spread)


def _check_choice(result: dict[str, Any], arguments: list[str]) -> None:
    """The model kept is the best one seen, and one process finds the distance that two workers found."""
    folders = _folders(result)
    curve = json.loads((folders["train_stage2"] / "curve.json").read_text())
    looks = {p["step"]: p["selection_frechet_distance"] for p in curve if "selection_frechet_distance" in p}
    manifest = json.loads((folders["train_stage2"] / "manifest.json").read_text())
    selected = manifest["metrics"]["selected_step"]
    assert set(looks) == {3, 6}
    assert looks[selected] == min(looks.values())
    context = _context(arguments, {"data": folders["preprocess"]}, Path())
    reference = folders["reference_stats"]
    cpu = torch.device("cpu")
    sampler = Sampler(context, load_network(folders["train_stage2"], cpu), cpu)
    alone = FrechetCurve(reference, None, read_held_out(reference)).measure(sampler, 20)
    assert min(alone.values()) == pytest.approx(looks[selected], rel=1e-3)


def _check_samples(result: dict[str, Any], arguments: list[str], checkpoints: Path) -> None:
    """One process makes the shards, features and energies that two Ray workers made, bit for bit."""
    folders = _folders(result)
    inputs = {
        "data": folders["preprocess"],
        "model": folders["train_stage2"],
        "reference": folders["reference_stats"],
    }
    context = _context(arguments, inputs, checkpoints)
    with one_thread():
        layout, steps = Layout(1100, 8), int(result["metrics"]["sample_steps"])
        parts = Parts(context, SampleMaker).make(SampleMaker.final, layout.num_parts, "parts", layout, steps)
    assert len(parts) == 3
    for part in parts:
        made = folders["sample"] / f"samples-{part.number:05d}.tar"
        assert made.read_bytes() == part.beside(SHARD).read_bytes()
        ours, theirs = load_file(part.tensors), load_file(made.with_suffix(".safetensors"))
        assert all(torch.equal(ours[name], theirs[name]) for name in ("pooled", "logits", "energy"))
