"""The main job end to end on real data at reduced size: real Ray, real MLflow, real torch-fidelity."""

import json
import re
import subprocess
import sys
from pathlib import Path

import mlflow
import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

import atjem
from pipelines.graph import STAGES
from tests.support.running import ROOT, reduced_arguments

pytestmark = [pytest.mark.slow, pytest.mark.ray]

CONTRACT_METRICS = {
    "clean_accuracy",
    "robust_accuracy",
    "pgd_accuracy",
    "ece",
    "ood_auroc",
    "samples_per_second",
    "frechet_distance",
    "kernel_distance",
    "feature_precision",
    "feature_recall",
    "class_score",
    "counterfactual_confidence",
    "counterfactual_flip_rate",
    "energy_real",
}


def _arguments(workdir: Path, **changed: object) -> list[str]:
    return reduced_arguments(workdir, evaluate__robust__attack="autoattack", **changed)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def first(pipeline, workdir):
    result = pipeline(*_arguments(workdir), "--json")
    assert result.code == 0, result.err
    return result


@pytest.fixture(scope="module")
def second(pipeline, workdir, first):
    return pipeline(*_arguments(workdir), "--json")


@pytest.fixture(scope="module")
def client(workdir, first) -> MlflowClient:
    uri = f"sqlite:///{workdir / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    return MlflowClient(uri)


def _children(client, parent):
    query = f"tags.`mlflow.parentRunId` = '{parent}'"
    return client.search_runs([client.get_run(parent).info.experiment_id], query)


def test_json_is_the_only_thing_on_stdout(first):
    assert len(first.out.strip().splitlines()) == 1
    result = first.json
    assert result["pipeline"] == "digits"
    assert result["status"] == "done"
    assert [stage["name"] for stage in result["stages"]] == list(STAGES)
    assert {stage["status"] for stage in result["stages"]} == {"ran"}
    for stage in result["stages"]:
        assert set(stage) == {"name", "status", "reason", "fingerprint", "run_id", "seconds", "artifact"}
        assert Path(stage["artifact"], "manifest.json").is_file()


def test_metrics_of_the_contract(first):
    metrics = first.json["metrics"]
    assert metrics.keys() >= CONTRACT_METRICS
    assert metrics.keys() >= {f"stage1_{name}" for name in CONTRACT_METRICS}
    assert metrics.keys() >= {"plain_robust_accuracy", "train_test_frechet_distance"}
    assert not metrics.keys() & {"fid", "is_mean", "kid_mean", "precision", "recall"}
    for name in ("clean_accuracy", "robust_accuracy", "pgd_accuracy", "ood_auroc", "feature_precision"):
        assert 0 <= metrics[name] <= 1
    assert metrics["robust_accuracy"] <= metrics["pgd_accuracy"] <= 1
    assert metrics["num_train_images"] + metrics["num_test_images"] == 1797


def test_second_run_reuses_everything_and_starts_no_ray(first, second):
    assert second.code == 0
    assert {stage["status"] for stage in second.json["stages"]} == {"cached"}
    assert second.json["metrics"] == first.json["metrics"]
    assert second.json["run_id"] != first.json["run_id"]


def test_plan_and_status_after_a_run(pipeline, workdir, first):
    plan = pipeline(*_arguments(workdir), "--plan", "--json").json
    assert {stage["status"] for stage in plan["stages"]} == {"cached"}
    changed = pipeline(*_arguments(workdir, sample__step_size=0.1), "--plan", "--json").json
    statuses = {stage["name"]: stage for stage in changed["stages"]}
    assert statuses["train_stage2"]["status"] == "cached"
    assert statuses["sample"]["status"] == "run"
    assert statuses["sample"]["reason"] == "changed setting: sample.step_size"
    assert statuses["evaluate_classifier"]["status"] == "cached"
    assert pipeline(*_arguments(workdir), "--status", "--json").json["status"] == "done"


def test_mlflow_tree(client, first, second):
    parent = client.get_run(first.json["run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["atjem.status"] == "done"
    assert parent.data.params["stage2.contrastive.step_size"] == "0.3"
    assert parent.data.metrics == pytest.approx(first.json["metrics"])
    assert "atjem.absent.fid" in parent.data.tags
    protocols = mlflow.artifacts.load_dict(f"{parent.info.artifact_uri}/protocols.json")
    counted = ("num_", "robust_num", "extractor_accuracy", "diverged")
    without = {name for name in parent.data.metrics if name not in protocols}
    assert {name for name in without if not name.startswith(counted)} == set()
    assert protocols["frechet_distance"]["num_samples"] == 60
    assert protocols["stage1_robust_accuracy"] == protocols["robust_accuracy"]
    assert len(parent.data.tags["atjem.protocol.robust_accuracy"]) == 20
    outcomes = mlflow.artifacts.load_dict(f"{parent.info.artifact_uri}/outcomes.json")
    accuracies = {name: right.count("1") / len(right) for name, right in outcomes.items()}
    assert accuracies.keys() >= {"clean_accuracy", "robust_accuracy", "stage1_robust_accuracy"}
    assert accuracies == pytest.approx({name: first.json["metrics"][name] for name in accuracies})
    children = _children(client, parent.info.run_id)
    assert sorted(run.data.tags["atjem.stage"] for run in children) == sorted(STAGES)
    for run in children:
        assert run.info.status == "FINISHED"
        assert {"atjem.fingerprint", "atjem.inputs", "atjem.artifact", "atjem.status", "git.commit"} <= set(
            run.data.tags
        )
        assert Path(run.data.tags["atjem.artifact"]).is_dir()
    cached = client.get_run(second.json["run_id"])
    assert cached.data.metrics == parent.data.metrics
    by_stage = {run.data.tags["atjem.stage"]: run.info.run_id for run in children}
    assert cached.data.tags["atjem.run.train_stage2"] == by_stage["train_stage2"]
    assert _children(client, cached.info.run_id) == []


def test_curves_datasets_and_pictures(client, first, tmp_path):
    parent = client.get_run(first.json["run_id"])
    inputs = {entry.dataset.name: entry.dataset for entry in parent.inputs.dataset_inputs}
    assert inputs.keys() == {"train", "test"}
    assert all(0 < len(dataset.digest) <= 36 for dataset in inputs.values())
    stages = {run.data.tags["atjem.stage"]: run for run in _children(client, parent.info.run_id)}
    history = client.get_metric_history(stages["train_stage2"].info.run_id, "contrastive_steps")
    assert [point.step for point in history] == [5, 10, 15, 20, 25, 30]
    pictures = [entry.path for entry in client.list_artifacts(parent.info.run_id, "figures")]
    assert {"figures/sample_grid.png", "figures/stage1_sample_grid.png"} <= set(pictures)
    assert "figures/train_stage2_curves.png" in pictures
    assert {"figures/counterfactuals.png", "figures/energies.png", "figures/reliability.png"} <= set(pictures)
    assert "trajectory.gif" in {entry.path for entry in client.list_artifacts(parent.info.run_id)}
    classifier = stages["evaluate_classifier"].info.run_id
    for name in ("pgd_accuracy_by_eps", "counterfactual_confidence_by_eps"):
        assert len(client.get_metric_history(classifier, name)) >= 3
    local = client.download_artifacts(parent.info.run_id, "figures/sample_grid.png", str(tmp_path))
    with Image.open(local) as grid:
        assert min(grid.size) > 100


def test_model_loads_from_mlflow_and_from_the_artifact(client, first):
    parent = client.get_run(first.json["run_id"])
    model_id = parent.outputs.model_outputs[0].model_id
    logged = mlflow.pytorch.load_model(f"models:/{model_id}").eval()
    stages = {stage["name"]: stage for stage in first.json["stages"]}
    own = atjem.load(stages["train_stage2"]["artifact"])
    x = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(logged(x), own(x))


def test_artifacts_hold_shards_and_manifests(first):
    stages = {stage["name"]: Path(stage["artifact"]) for stage in first.json["stages"]}
    manifest = pq.read_table(stages["preprocess"] / "images" / "manifest.parquet")
    columns = {"key", "label", "shard", "offset", "sha256", "width", "height", "split"}
    assert columns <= set(manifest.column_names)
    assert manifest.num_rows == 1797
    assert (stages["preprocess"] / "images" / "train-00000.tar").is_file()
    samples = pq.read_table(stages["sample"] / "manifest.parquet")
    assert samples["label"].to_pylist() == [index % 10 for index in range(60)]
    record = json.loads((stages["sample"] / "manifest.json").read_text())
    assert record["metrics"]["sample_steps"] in (2, 4)
    assert record["identity"]["libraries"]["torch"] == torch.__version__.split("+")[0]


def test_nothing_is_written_beside_the_workdir(pipeline, workdir, first, tmp_path):
    result = pipeline(*_arguments(workdir), cwd=tmp_path)
    assert result.code == 0
    assert list(tmp_path.iterdir()) == []


def test_forced_stage_runs_again_and_changes_nothing_else(pipeline, workdir, second):
    result = pipeline(*_arguments(workdir), "--force", "evaluate_fidelity", "--json")
    statuses = {stage["name"]: stage["status"] for stage in result.json["stages"]}
    assert statuses.pop("evaluate_fidelity") == "ran"
    assert set(statuses.values()) == {"cached"}
    assert result.json["metrics"] == pytest.approx(second.json["metrics"])


@pytest.mark.parametrize("objective", ["at", "jem"])
def test_other_objectives_are_one_setting_and_share_stage1(objective, pipeline, workdir, second):
    changed = {
        "stage2__objective": objective,
        "stage2__sgld__buffer_size": 100,
        "stage2__optimizer__lr": 1e-3,
    }
    result = pipeline(*_arguments(workdir, **changed), "--until", "train_stage2", "--json")
    assert result.code == 0, result.err
    stages = {stage["name"]: stage for stage in result.json["stages"]}
    assert stages["train_stage1"]["status"] == "cached"
    assert stages["train_stage2"]["status"] == "ran"
    curve = json.loads((Path(stages["train_stage2"]["artifact"]) / "curve.json").read_text())
    assert curve[-1]["step"] == 30
    assert ("energy_contrast" in curve[-1]) == (objective == "jem")


def test_damaged_artifact_is_made_again(pipeline, workdir, first):
    """The sample shard loses a byte: sampling runs again, gives the same, and what follows stays cached."""
    stages = {stage["name"]: Path(stage["artifact"]) for stage in first.json["stages"]}
    shard = stages["sample"] / "samples-00000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    result = pipeline(*_arguments(workdir), "--json")
    assert {s["name"]: s["status"] for s in result.json["stages"]}["sample"] == "ran"
    assert shard.read_bytes() == whole


def test_failed_stage_says_what_to_do_and_the_rest_is_kept(pipeline, workdir, tmp_path):
    """A folder whose images are mostly damaged stops preprocessing with the list; exit code 1."""
    for label in range(2):
        (tmp_path / "images" / str(label)).mkdir(parents=True)
        for index in range(60):
            path = tmp_path / "images" / str(label) / f"{index}.png"
            Image.new("L", (8, 8), index).save(path)
            if index % 3 == 1:
                path.write_bytes(path.read_bytes()[:40])
    arguments = reduced_arguments(tmp_path / "runs", data__in=tmp_path / "images", stage1__batch_size=16)
    result = pipeline(*arguments, "--set", "stage2.batch_size=16", "--json")
    assert result.code == 1
    statuses = {stage["name"]: stage["status"] for stage in result.json["stages"]}
    assert statuses["preprocess"] == "failed"
    assert statuses["train_stage1"] == "skipped"
    assert "40 of 120 images cannot be decoded" in result.errors[0]
    assert "to go on: python pipelines/run.py" in result.errors[0]
    assert "Traceback" not in result.err
    (told,) = [line for line in result.err.splitlines() if line.startswith("its traceback is in ")]
    assert "BadImagesError" in Path(told.removeprefix("its traceback is in ")).read_text()


def test_plan_imports_neither_torch_nor_ray_nor_mlflow(tmp_path):
    code = (
        "import sys; sys.path.insert(0, '.'); sys.argv = ['run.py', '--pipeline', 'digits', '--plan',"
        f" '--workdir', {str(tmp_path)!r}]\n"
        "import typer; from pipelines.commands.run import run\n"
        "app = typer.Typer(); app.command()(run); app(standalone_mode=False)\n"
        "print(sorted({'torch', 'ray', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
    assert list(tmp_path.iterdir()) == []


def test_report_is_one_file_with_everything_in_it(client, first):
    stages = {stage["name"]: Path(stage["artifact"]) for stage in first.json["stages"]}
    page = (stages["report"] / "report.html").read_text()
    assert len(page) < 5_000_000
    for needed in (
        "Fréchet distance",
        "Reliability",
        "Lineage",
        "Counterfactuals by budget",
        "What each figure depends on",
        'alt="energies"',
        "train_stage2",
        "stage2.contrastive.step_size",
    ):
        assert needed in page
    assert re.findall(r'(?:src|srcset|href)="(?!data:)', page) == []
    logged = [entry.path for entry in client.list_artifacts(first.json["run_id"])]
    assert "report.html" in logged
