"""A killed and resumed sweep loses no finished trial and duplicates none."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from tests.support.running import ROOT
from tests.support.sweeping import NAME, TRIALS, Swept, check_runs, command, new_sweep, run

pytestmark = [pytest.mark.slow, pytest.mark.ray]


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


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Swept:
    """A sweep that was killed during a trial and then resumed to its end."""
    workdir = tmp_path_factory.mktemp("sweep")
    log = workdir / "first.log"
    process = _start(new_sweep(workdir), log)
    assert "RUNNING" in _wait_for(workdir, 1, process, log)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return Swept(workdir, run(command("--resume", NAME, "--workdir", str(workdir), "--json")))


def test_resumed_sweep_has_the_trials_that_an_uninterrupted_one_has(swept):
    assert swept.result.code == 0, swept.result.err
    assert swept.result.json["status"] == "done"
    trials = swept.study.trials
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert {trial.state.name for trial in trials} == {"COMPLETE", "FAIL"}
    assert trials[0].params == {"stage2.optimizer.lr": 0.01, "sample.step_size": 0.2}
    check_runs(swept)


def test_finished_sweep_is_left_as_it_is_by_another_resume(swept):
    before = [(trial.number, trial.values) for trial in swept.study.trials]
    again = run(command("--resume", NAME, "--workdir", str(swept.workdir), "--json"))
    assert again.code == 0, again.err
    assert [(trial.number, trial.values) for trial in swept.study.trials] == before
    assert again.json["best"] == swept.result.json["best"]


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
    done = run(command("--workdir", str(swept.workdir), *arguments))
    assert done.code == 2
    assert named in done.err


def test_trial_whose_process_dies_has_failed_and_the_sweep_goes_on(tmp_path):
    log = tmp_path / "first.log"
    process = _start([*new_sweep(tmp_path), "--concurrent", "1"], log)
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


def test_interrupted_sweep_leaves_a_usable_result(tmp_path):
    log = tmp_path / "first.log"
    process = _start(new_sweep(tmp_path), log)
    _wait_for(tmp_path, 1, process, log)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130, log.read_text()
    assert (tmp_path / "best.yaml").exists()
    assert "RUNNING" not in _states(tmp_path)
    assert len(_states(tmp_path)) < TRIALS
    assert f"--resume {NAME}" in log.read_text()
