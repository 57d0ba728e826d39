"""A sweep whose MLflow server dies while a trial runs: no trial fails of it, and nothing is lost."""

import json
import sqlite3
import subprocess
import sys

import pytest
from mlflow import MlflowClient

from tests.support.running import ROOT, wait_for
from tests.support.servers import MlflowServer

pytestmark = [pytest.mark.slow, pytest.mark.ray]

SPACE = """
settings:
  sample.step_size: {times: [0.5, 2]}
"""


def test_trials_go_on_without_their_server_and_nothing_is_lost(tmp_path):
    log, out, space = tmp_path / "log", tmp_path / "out", tmp_path / "space.yaml"
    space.write_text(SPACE)
    with MlflowServer(tmp_path / "server") as server:
        command = [sys.executable, str(ROOT / "sweeps" / "tune_pgd.py"), "--smoke", "--trials", "2", "--json"]
        command += ["--workdir", str(tmp_path / "runs"), "--space", str(space), "--concurrent", "1"]
        command += ["--set", "evaluate.robust.attack=pgd", "--tracking-uri", server.uri]
        command += ["--objective", "frechet_distance:min", "pgd_accuracy:max"]
        with log.open("wb") as err, out.open("wb") as stdout:
            process = subprocess.Popen(command, stdout=stdout, stderr=err, cwd=ROOT)
        wait_for(lambda: any(tmp_path.glob("runs/artifacts/preprocess/[!.]*/manifest.json")), process, log)
        server.kill()
        wait_for(lambda: "MLflow does not answer" in log.read_text(), process, log)
        wait_for(lambda: "trial 1 starts" in log.read_text(), process, log)
        server.start()
        assert process.wait(timeout=600) == 0, log.read_text()
        told = json.loads(out.read_text().splitlines()[-1])
        assert {trial["state"] for trial in told["trials"]} == {"done"}
        client = MlflowClient(server.uri)
        runs = client.search_runs([client.get_experiment_by_name("digits-smoke").experiment_id])
        assert {run.info.status for run in runs} == {"FINISHED"}
        trials = {run.info.run_id for run in runs if "atjem.trial" in run.data.tags}
        assert trials == {trial["run_id"] for trial in told["trials"]}
        stages = [run for run in runs if "atjem.stage" in run.data.tags]
        assert {run.data.tags["mlflow.parentRunId"] for run in stages} == trials
        names = [(run.data.tags["mlflow.parentRunId"], run.data.tags["atjem.stage"]) for run in stages]
        assert len(set(names)) == len(names)
        with sqlite3.connect(server.folder / "server.db") as database:
            query = "select key, step from metrics group by run_uuid, key, step having count(*) > 1"
            assert database.execute(query).fetchall() == []
        assert not list(tmp_path.glob("runs/outbox/*/records.jsonl"))
