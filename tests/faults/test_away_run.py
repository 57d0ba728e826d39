"""A whole run whose MLflow server dies, comes back, and dies for good: it finishes, and nothing is lost."""

import json
import re
import sqlite3
import subprocess
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from tests.support.running import ROOT, command, reduced_arguments, wait_for
from tests.support.servers import MlflowServer

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]

SETTINGS = {
    "stage2__steps": 200,
    "stage2__checkpoint_every": 20,
    "evaluate__stage1": "false",
    "evaluate__counterfactual__num_images": 8,
}


def test_run_goes_on_without_its_server_and_nothing_is_lost(pipeline, tmp_path):
    workdir, log, out = tmp_path / "runs", tmp_path / "log", tmp_path / "out"
    with MlflowServer(tmp_path / "server") as server:
        options = [*reduced_arguments(workdir, **SETTINGS), "--tracking-uri", server.uri, "--json"]
        with log.open("wb") as err, out.open("wb") as stdout:
            process = subprocess.Popen(command(*options), stdout=stdout, stderr=err, cwd=ROOT)
        wait_for(lambda: any(workdir.glob("artifacts/preprocess/[!.]*/manifest.json")), process, log)
        server.kill()
        wait_for(lambda: any(workdir.glob("checkpoints/train_stage2/*/step_*")), process, log)
        assert "MLflow does not answer" in log.read_text()
        server.start()
        wait_for(lambda: "MLflow answers again" in log.read_text(), process, log)
        server.kill()
        assert process.wait(timeout=600) == 0, log.read_text()
        first = json.loads(out.read_text().splitlines()[-1])
        assert (first["status"], first["undelivered"] > 0) == ("done", True)
        assert f"python -m pipelines deliver --workdir {workdir}" in log.read_text()
        server.start()
        second = pipeline(*options)
        assert second.code == 0, second.err
        assert "records that an earlier run had left for it" in second.err
        _check(server, first["run_id"], second.json, workdir)


def _check(server: MlflowServer, parent: str, cached: dict, workdir: Path) -> None:
    assert {stage["status"] for stage in cached["stages"]} == {"cached"}
    assert "undelivered" not in cached
    ids = {stage["name"]: stage["run_id"] for stage in cached["stages"]}
    assert all(re.fullmatch("[0-9a-f]{32}", run) for run in ids.values())
    client = MlflowClient(server.uri)
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(runs) == len(ids) + 2
    tags = [(key, value) for run in runs for key, value in run.data.tags.items() if key != "atjem.record"]
    assert not [key for key, value in tags if value.startswith("new-")]
    stages = {run.data.tags["atjem.stage"]: run for run in runs if "atjem.stage" in run.data.tags}
    assert {name: run.info.run_id for name, run in stages.items()} == ids
    assert {run.data.tags["mlflow.parentRunId"] for run in stages.values()} == {parent}
    with sqlite3.connect(server.folder / "server.db") as database:
        query = "select key, step from metrics group by run_uuid, key, step having count(*) > 1"
        assert database.execute(query).fetchall() == []
    steps = [point.step for point in client.get_metric_history(ids["train_stage2"], "loss")]
    assert steps == list(range(5, 201, 5))
    figures = {file.path for file in client.list_artifacts(parent, "figures")}
    assert {"figures/train_stage2_curves.png", "figures/sample_grid.png"} <= figures
    assert "report.html" in {file.path for file in client.list_artifacts(parent)}
    run = client.get_run(parent)
    assert run.data.metrics["clean_accuracy"] == cached["metrics"]["clean_accuracy"]
    assert len(run.inputs.dataset_inputs) == 2
    [output] = run.outputs.model_outputs
    mlflow.set_tracking_uri(server.uri)
    assert mlflow.pytorch.load_model(f"models:/{output.model_id}") is not None
    assert not list((workdir / "outbox").glob("*/records.jsonl"))
