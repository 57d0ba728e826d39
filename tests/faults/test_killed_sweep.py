"""A real sweep, killed in the middle and gone on with: nothing finished is lost, nothing is there twice."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from pipelines.provenance import git_commit
from tests.support.browser import (
    BROWSER,
    PICTURES,
    browser,
    choose_training,
    mlflow_ui,
    only_this_machine,
    take,
)
from tests.support.running import ROOT, Result

pytestmark = [pytest.mark.slow, pytest.mark.ray]

# A learning rate at which training diverges, and a setting that leaves the trained model alone.
SPACE = """
settings:
  stage2.optimizer.lr: {choices: [0.01, 1.0e+30]}
  sample.step_size: {times: [0.5, 2]}
"""
TRIALS = 4
NAME = "digits-smoke-1"


@dataclass(frozen=True)
class Swept:
    workdir: Path
    result: Result
    killed_at: list[str]  # the trials' states when the driver was killed

    @property
    def folder(self) -> Path:
        return self.workdir / "sweeps" / NAME

    @property
    def study(self) -> optuna.Study:
        return optuna.load_study(study_name=NAME, storage=f"sqlite:///{self.folder / 'study.db'}")

    def runs(self) -> list[Run]:
        client = MlflowClient(f"sqlite:///{self.workdir / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("digits-smoke")
        return list(client.search_runs([experiment.experiment_id]))


def sweep(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "sweeps" / "tune_pgd.py"), *arguments]


def _start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(
            arguments, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
        )


def _states(workdir: Path) -> list[str]:
    """Of the study's trials, read beside the process that writes them."""
    database = workdir / "sweeps" / NAME / "study.db"
    if not database.exists():
        return []
    with create_engine(f"sqlite:///{database}").connect() as connection:
        try:
            return [row[0] for row in connection.execute(text("SELECT state FROM trials ORDER BY number"))]
        except OperationalError:  # it has no tables yet
            return []


def _wait_for(workdir: Path, finished: int, process: subprocess.Popen[bytes], log: Path) -> list[str]:
    """Until so many trials have ended, and another runs."""
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        states = _states(workdir)
        if sum(state in ("COMPLETE", "FAIL") for state in states) >= finished and "RUNNING" in states:
            return states
        time.sleep(0.2)
    raise AssertionError(f"not there in time: {log.read_text()}")


def _arguments(workdir: Path) -> list[str]:
    space = workdir / "space.yaml"
    workdir.mkdir(exist_ok=True)
    space.write_text(SPACE)
    return sweep(
        *("--smoke", "--trials", str(TRIALS), "--space", str(space), "--workdir", str(workdir)),
        *("--set", "evaluate.robust.attack=pgd", "--objective", "frechet_distance:min", "pgd_accuracy:max"),
    )


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    workdir = tmp_path_factory.mktemp("sweep")
    log = workdir / "first.log"
    process = _start(_arguments(workdir), log)
    states = _wait_for(workdir, 1, process, log)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(
        sweep("--resume", NAME, "--workdir", str(workdir), "--json"),
        capture_output=True,
        text=True,
        timeout=600,
        cwd=ROOT,
    )
    return Swept(workdir, Result(done.returncode, done.stdout, done.stderr), states)


def test_resumed_sweep_has_the_trials_that_an_uninterrupted_one_has(swept):
    assert "RUNNING" in swept.killed_at
    assert swept.result.code == 0, swept.result.err
    assert swept.result.json["status"] == "done"
    trials = swept.study.trials
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert {trial.state.name for trial in trials} == {"COMPLETE", "FAIL"}
    assert trials[0].params == {"stage2.optimizer.lr": 0.01, "sample.step_size": 0.2}


def test_trial_that_diverges_fails_with_its_cause_and_the_others_go_on(swept):
    failed = [trial for trial in swept.study.trials if trial.state.name == "FAIL"]
    assert failed
    assert {trial.params["stage2.optimizer.lr"] for trial in failed} == {1e30}
    assert all("diverged" in trial.user_attrs["cause"] for trial in failed)
    assert all("diverged" in row["cause"] for row in swept.result.json["trials"] if row["state"] == "failed")


def test_what_no_parameter_changes_is_made_once(swept):
    made = Counter(path.parent.parent.name for path in swept.workdir.glob("artifacts/*/*/manifest.json"))
    complete = sum(trial.state.name == "COMPLETE" for trial in swept.study.trials)
    assert made["preprocess"] == made["reference_stats"] == made["train_stage1"] == 1
    assert made["train_stage2"] == 1  # the trials that did not diverge differ in sample.step_size alone
    assert made["sample"] == complete > 1
    runs = Counter(run.data.tags.get("atjem.stage") for run in swept.runs())
    assert runs["preprocess"] == runs["train_stage1"] == 1


def test_mlflow_holds_the_sweep_its_trials_and_their_stages_once(swept):
    runs = swept.runs()
    [parent] = [run for run in runs if run.data.tags.get("atjem.kind") == "sweep"]
    trials = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.data.tags["atjem.trial"] for run in trials) == [f"{NAME}/{n}" for n in range(TRIALS)]
    assert {run.info.status for run in runs} <= {"FINISHED", "FAILED"}
    assert {run.data.tags["git.commit"] for run in runs} == {git_commit()}
    stages = [run for run in runs if run.data.tags.get("atjem.stage")]
    assert {run.data.tags["mlflow.parentRunId"] for run in stages} <= {run.info.run_id for run in trials}
    client = MlflowClient(f"sqlite:///{swept.workdir / 'mlflow.db'}")
    for run in stages:
        for metric in run.data.metrics:
            steps = [point.step for point in client.get_metric_history(run.info.run_id, metric)]
            assert len(steps) == len(set(steps)), (run.info.run_name, metric, steps)
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"best.yaml", "space.yaml", "trials.json", "figures"} <= files
    assert "Objectives: frechet_distance:min" in parent.data.tags["mlflow.note.content"]


def test_best_settings_run_as_they_are(swept, pipeline):
    best = swept.result.json["best"]
    assert Path(best["recipe"]).read_text() == (swept.workdir / "best.yaml").read_text()
    settings = yaml.safe_load(Path(best["recipe"]).read_text())
    assert settings["sample"]["step_size"] == best["params"]["sample.step_size"]
    arguments = ("--pipeline", best["recipe"], "--smoke", "--workdir", str(swept.workdir), "--plan", "--json")
    planned = {stage["name"]: stage["status"] for stage in pipeline(*arguments, timeout=60).json["stages"]}
    assert planned["train_stage2"] == planned["sample"] == planned["evaluate_fidelity"] == "cached"


def test_pictures_are_drawn_and_nothing_of_ray_tunes_stays(swept):
    assert {path.name for path in (swept.folder / "figures").iterdir()} >= {
        "pareto_front.png",
        "parallel_coordinates.png",
    }
    assert not (swept.folder / ".ray_tune").exists()
    assert len(json.loads((swept.folder / "trials.json").read_text())) == TRIALS


def test_finished_sweep_is_left_as_it_is_by_another_resume(swept):
    before = [(trial.number, trial.values) for trial in swept.study.trials]
    again = subprocess.run(
        sweep("--resume", NAME, "--workdir", str(swept.workdir), "--json"),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
    )
    told: dict[str, Any] = Result(again.returncode, again.stdout, again.stderr).json
    assert again.returncode == 0, again.stderr
    assert [(trial.number, trial.values) for trial in swept.study.trials] == before
    assert told["best"] == swept.result.json["best"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--resume", "digits-9"], "--resume: 'digits-9'; use one of digits-smoke-1"),
        (["--resume", "../digits-1"], "--resume"),
        (["--resume", NAME, "--objective", "ece:min"], "--objective: differs from the sweep's own"),
        (["--resume", NAME, "--set", "seed=3"], "--set: differs from the sweep's own"),
        (["--resume", NAME, "--trials", "0"], "command line"),
    ],
)
def test_resume_of_what_is_not_there_or_is_something_else(swept, arguments, named):
    done = subprocess.run(
        sweep("--workdir", str(swept.workdir), *arguments),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert named in done.stderr


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on PATH to render the pages with")
def test_mlflow_compares_trials(swept, tmp_path):
    """With ATJEM_PICTURES=1 those of the sweep in runs/, for docs/."""
    workdir, name = (ROOT / "runs", "digits-1") if PICTURES else (swept.workdir, NAME)
    client = MlflowClient(f"sqlite:///{workdir / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(name.rpartition("-")[0]).experiment_id
    trials = [
        run
        for run in client.search_runs([experiment], f"tags.`atjem.sweep` = '{name}'")
        if re.fullmatch(rf"{name}/\d+", run.data.tags.get("atjem.trial", "")) and run.data.metrics
    ]
    ids = sorted((run.info.run_id for run in trials), key=lambda id_: client.get_run(id_).info.start_time)[:8]
    with mlflow_ui(workdir) as address, browser(tmp_path / "chromium") as chromium:
        choose_training(chromium, address)
        query = f"runs={json.dumps(ids, separators=(',', ':'))}&experiments=[%22{experiment}%22]"
        page = chromium.open(f"{address}/#/compare-runs?{query}", width=1300, height=1500)
        page.wait_for_text("trial 0 (the recipe itself)", "sample.step_size", "Parallel Coordinates Plot")
        page.wait_for("document.querySelectorAll('[role=switch]').length > 1")
        page.evaluate("document.querySelectorAll('[role=switch]')[0].click()")  # parameters: show diff only
        page.wait_for("!document.body.innerText.includes('data.image_size')")
        only_this_machine(page, address)
        take(page, (ROOT / "docs" if PICTURES else tmp_path) / "mlflow-sweep.png")


@pytest.mark.faults
def test_trial_whose_process_dies_has_failed_and_the_sweep_goes_on(tmp_path):
    log = tmp_path / "first.log"
    process = _start([*_arguments(tmp_path), "--concurrent", "1"], log)
    number = len(_wait_for(tmp_path, 1, process, log)) - 1
    while not (tmp_path / "sweeps" / NAME / "trials" / f"trial-{number}.log").exists():
        time.sleep(0.1)  # until its run in MLflow is open
    [actor] = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.cmdline()
        and child.cmdline()[0].startswith("ray::ResourceTrainable")  # Ray Tune's name of it
    ]
    actor.kill()
    assert process.wait(timeout=400) == 0, log.read_text()
    states = _states(tmp_path)
    assert len(states) == TRIALS
    assert set(states) == {"COMPLETE", "FAIL"}
    assert "failed: its process died" in log.read_text()
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("digits-smoke").experiment_id
    runs = client.search_runs([experiment])
    assert {run.info.status for run in runs} == {"FINISHED", "FAILED"}
    assert any("its process died" in run.data.tags.get("atjem.reason", "") for run in runs)


@pytest.mark.faults
def test_interrupted_sweep_leaves_a_usable_result(tmp_path):
    log = tmp_path / "first.log"
    process = _start(_arguments(tmp_path), log)
    _wait_for(tmp_path, 1, process, log)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130, log.read_text()
    assert (tmp_path / "best.yaml").exists()
    assert "RUNNING" not in _states(tmp_path)
    assert len(_states(tmp_path)) < TRIALS
    assert f"--resume {NAME}" in log.read_text()
