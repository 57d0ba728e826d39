"""What MLflow holds of a finished run: its tree of runs, curves, pictures, data sets and model."""

from pathlib import Path

import mlflow
import pytest
import torch
from PIL import Image

import atjem
from pipelines.graph import STAGES

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture(scope="module")
def client(demo):
    mlflow.set_tracking_uri(f"sqlite:///{demo.workdir / 'mlflow.db'}")
    return demo.client


@pytest.fixture(scope="module")
def parent(demo, client):
    return client.get_run(demo.result.json["run_id"])


def _stages(client, parent):
    query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    runs = client.search_runs([parent.info.experiment_id], query)
    stages = {run.data.tags["atjem.stage"]: run for run in runs}
    assert len(stages) == len(runs)
    return stages


def test_parent_has_settings_metrics_protocols_and_outcomes(demo, parent):
    metrics = demo.result.json["metrics"]
    assert (parent.info.status, parent.data.tags["atjem.status"]) == ("FINISHED", "done")
    assert parent.data.params["stage2.contrastive.step_size"] == "0.3"
    assert parent.data.metrics == pytest.approx(metrics)
    assert "atjem.absent.fid" in parent.data.tags
    protocols = mlflow.artifacts.load_dict(f"{parent.info.artifact_uri}/protocols.json")
    counted = ("num_", "robust_num", "extractor_accuracy", "diverged")
    assert [name for name in metrics if name not in protocols and not name.startswith(counted)] == []
    assert protocols["frechet_distance"]["num_samples"] == 60
    assert protocols["stage1_robust_accuracy"] == protocols["robust_accuracy"]
    assert len(parent.data.tags["atjem.protocol.robust_accuracy"]) == 20
    outcomes = mlflow.artifacts.load_dict(f"{parent.info.artifact_uri}/outcomes.json")
    accuracies = {name: right.count("1") / len(right) for name, right in outcomes.items()}
    assert accuracies.keys() >= {"clean_accuracy", "robust_accuracy", "stage1_robust_accuracy"}
    assert accuracies == pytest.approx({name: metrics[name] for name in accuracies})


def test_each_stage_has_its_run_and_a_cached_run_links_them(client, parent, demo_again):
    stages = _stages(client, parent)
    assert sorted(stages) == sorted(STAGES)
    for run in stages.values():
        tags = run.data.tags
        assert run.info.status == "FINISHED"
        assert tags.keys() >= {"atjem.fingerprint", "atjem.inputs", "atjem.status", "git.commit"}
        assert Path(tags["atjem.artifact"]).is_dir()
    cached = client.get_run(demo_again.json["run_id"])
    assert cached.data.metrics == parent.data.metrics
    assert cached.data.tags["atjem.run.train_stage2"] == stages["train_stage2"].info.run_id
    assert _stages(client, cached) == {}


def test_curves_datasets_and_pictures(client, parent, tmp_path):
    inputs = {entry.dataset.name: entry.dataset for entry in parent.inputs.dataset_inputs}
    assert inputs.keys() == {"train", "test"}
    assert all(0 < len(dataset.digest) <= 36 for dataset in inputs.values())
    stages = _stages(client, parent)
    history = client.get_metric_history(stages["train_stage2"].info.run_id, "contrastive_steps")
    assert [point.step for point in history] == [5, 10, 15, 20, 25, 30]
    for name in ("pgd_accuracy_by_eps", "counterfactual_confidence_by_eps"):
        assert len(client.get_metric_history(stages["evaluate_classifier"].info.run_id, name)) >= 3
    drawn = {entry.path for entry in client.list_artifacts(parent.info.run_id, "figures")}
    for name in ("sample_grid", "stage1_sample_grid", "train_stage2_curves", "counterfactuals", "energies"):
        assert f"figures/{name}.png" in drawn
    assert "figures/reliability.png" in drawn
    logged = {entry.path for entry in client.list_artifacts(parent.info.run_id)}
    assert {"trajectory.gif", "report.html"} <= logged
    local = client.download_artifacts(parent.info.run_id, "figures/sample_grid.png", str(tmp_path))
    with Image.open(local) as grid:
        assert min(grid.size) > 100


def test_model_loads_from_mlflow_and_from_the_artifact(demo, parent):
    model_id = parent.outputs.model_outputs[0].model_id
    logged = mlflow.pytorch.load_model(f"models:/{model_id}").eval()
    own = atjem.load(demo.artifact("train_stage2"))
    x = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(logged(x), own(x))
