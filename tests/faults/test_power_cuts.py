"""The driver killed, or everything at once, while each stage is at work: the same command ends it."""

import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from pipelines.graph import STAGES
from tests.support.running import ROOT, command, reduced_arguments

pytestmark = [pytest.mark.slow, pytest.mark.ray]

CHANGES = {"evaluate__stage1": "false", "stage2__steps": 60}


@pytest.fixture(scope="module")
def finished(pipeline, tmp_path_factory) -> tuple[Path, list[str], dict[str, Any]]:
    workdir = tmp_path_factory.mktemp("runs")
    arguments = [*reduced_arguments(workdir, **CHANGES), "--json"]
    result = pipeline(*arguments)
    assert result.code == 0, result.err
    return workdir, arguments, result.json


def kill(process: subprocess.Popen[bytes], *, everything: bool) -> None:
    driver = psutil.Process(process.pid)
    for victim in [driver, *(driver.children(recursive=True) if everything else [])]:
        try:
            victim.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.wait()


def killed_at_work(arguments: list[str], draft: str, workdir: Path, *, everything: bool) -> None:
    """Starts the command and kills it as soon as the stage's draft is there."""
    for _ in range(3):  # a short stage may end before it is noticed
        with (workdir / "log").open("wb") as log:
            process = subprocess.Popen(command(*arguments), stdout=log, stderr=log, cwd=ROOT)
        while process.poll() is None:
            if any(workdir.glob(draft)):
                kill(process, everything=everything)
                return
            time.sleep(0.005)
    pytest.fail(f"never seen at work: {(workdir / 'log').read_text()}")


@pytest.mark.parametrize("everything", [False, True], ids=["driver", "power"])
@pytest.mark.parametrize("stage", STAGES)
def test_same_command_ends_what_was_begun(pipeline, finished, stage, everything):
    workdir, arguments, whole = finished
    (row,) = [row for row in whole["stages"] if row["name"] == stage]
    shutil.rmtree(row["artifact"])
    shutil.rmtree(workdir / "checkpoints" / stage / row["fingerprint"], ignore_errors=True)
    draft = f"artifacts/{stage}/.{row['fingerprint']}.*"
    killed_at_work(arguments, draft, workdir, everything=everything)
    client = MlflowClient(f"sqlite:///{workdir / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("digits").experiment_id
    (cut,) = client.search_runs(
        [experiment], "tags.`atjem.kind` = 'pipeline' AND attributes.status = 'RUNNING'"
    )
    if not everything:
        time.sleep(5)  # its Ray processes notice within seconds and end
    result = pipeline(*arguments)
    assert result.code == 0, result.err
    assert result.json["run_id"] == cut.info.run_id
    statuses = {row["name"]: row["status"] for row in result.json["stages"]}
    assert {status for name, status in statuses.items() if name != stage} == {"cached"}
    assert result.json["metrics"].keys() == whole["metrics"].keys()
    for name, value in whole["metrics"].items():
        if not name.endswith("per_second"):
            assert result.json["metrics"][name] == value, name
    assert {run.info.status for run in client.search_runs([experiment], "")} == {"FINISHED"}
    with sqlite3.connect(workdir / "mlflow.db") as database:
        query = "select count(*) from metrics group by run_uuid, key, step having count(*) > 1"
        assert database.execute(query).fetchall() == []
