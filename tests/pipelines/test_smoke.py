"""`--smoke`: the whole graph on a handful of images, and nothing of it that could pass for a result."""

import json

import numpy as np
import pytest
from PIL import Image

from pipelines.graph import STAGES
from pipelines.plan import make_plan
from pipelines.preflight.settings import check_settings
from pipelines.smoke import smoke_settings
from pipelines.workdir.store import Store
from tests.support.recipes import settings_of
from tests.support.running import FinishedRun

RECIPE = ("--pipeline", "cifar10", "--set", "model.arch=wrn-16-4")  # its own network takes minutes
CPUS = {"CPU": 2, "GPU": 0}


@pytest.fixture(scope="module")
def smoke(pipeline, tmp_path_factory) -> FinishedRun:
    """Of the CIFAR-10 recipe, on photographs, at its own size and architecture."""
    workdir = tmp_path_factory.mktemp("runs")
    result = pipeline(*RECIPE, "--smoke", "--workdir", str(workdir), "--json")
    assert result.code == 0, result.err
    return FinishedRun(workdir, result)


@pytest.mark.slow
@pytest.mark.ray
def test_every_stage_runs_and_no_metric_passes_for_a_result(smoke):
    assert [row["name"] for row in smoke.result.json["stages"]] == list(STAGES)
    assert {row["status"] for row in smoke.result.json["stages"]} == {"ran"}
    assert smoke.result.json["pipeline"] == "cifar10"
    metrics = smoke.result.json["metrics"]
    assert {"smoke_clean_accuracy", "smoke_robust_accuracy", "smoke_stage1_frechet_distance"} <= set(metrics)
    assert all(name.startswith("smoke_") for name in metrics)
    assert [e.name for e in smoke.client.search_experiments() if e.name != "Default"] == ["cifar10-smoke"]
    runs = smoke.client.search_runs([smoke.client.get_experiment_by_name("cifar10-smoke").experiment_id])
    assert len(runs) == 1 + len(STAGES)
    for run in runs:
        assert run.data.tags["atjem.smoke"] == "true"
        assert all(name.startswith("smoke_") for name in run.data.metrics)
    assert "none of these figures is a result" in smoke.result.err


@pytest.mark.slow
@pytest.mark.ray
def test_model_and_image_size_are_the_recipes_own(smoke):
    spec = json.loads((smoke.artifact("train_stage2") / "model.json").read_text())
    assert (spec["arch"], spec["image_size"], spec["num_classes"]) == ("wrn-16-4", 32, 10)
    manifest = json.loads((smoke.artifact("train_stage2") / "manifest.json").read_text())
    assert manifest["metrics"]["steps"] == 2


@pytest.mark.slow
@pytest.mark.ray
def test_report_says_that_it_is_no_result(smoke):
    page = (smoke.artifact("report") / "report.html").read_text()
    assert "none of these figures or pictures is a result" in page


@pytest.mark.slow
@pytest.mark.ray
def test_second_call_reuses_everything_but_a_real_run_nothing(smoke, pipeline):
    again = pipeline(*RECIPE, "--smoke", "--workdir", str(smoke.workdir), "--plan", "--json")
    assert {row["status"] for row in again.json["stages"]} == {"cached"}
    made = {row["fingerprint"] for row in smoke.result.json["stages"]}
    assert {row["fingerprint"] for row in again.json["stages"]} == made
    stand_ins = ("data.in=photographs-10", "data.ood=photographs-10", "data.max_images=12")
    sets = [word for text in stand_ins for word in ("--set", text)]
    real = pipeline(*RECIPE, "--workdir", str(smoke.workdir), "--plan", "--json", *sets)
    assert {row["status"] for row in real.json["stages"]} == {"run"}
    assert not made & {row["fingerprint"] for row in real.json["stages"]}


def test_same_settings_have_other_fingerprints_under_smoke(tmp_path):
    settings = smoke_settings(settings_of("digits"), CPUS)
    smoke, real = (make_plan(settings, Store(tmp_path), smoke=flag) for flag in (True, False))
    assert list(smoke.steps) == list(real.steps)
    assert not {s.fingerprint for s in smoke.steps.values()} & {s.fingerprint for s in real.steps.values()}


@pytest.mark.parametrize(
    ("name", "num_classes"),
    [("cifar10", 10), ("cifar100", 100), ("imagenet256", 1000), ("imagenet256-convnext-large", 1000)],
)
def test_photographs_stand_in_for_missing_data_with_the_same_classes(name, num_classes, tmp_path):
    own = settings_of(name, f"data.root={tmp_path}")
    settings = smoke_settings(own, CPUS)
    assert settings.data.in_ == f"photographs-{num_classes}"
    assert settings.data.ood == "photographs-10"
    assert settings.model.checkpoint is None
    assert settings.evaluate.feature_extractor == "random"
    same = ("arch", "normalization", "channels")
    assert all(getattr(settings.model, field) == getattr(own.model, field) for field in same)
    assert settings.data.image_size == own.data.image_size
    assert check_settings(settings) == []


@pytest.mark.slow
@pytest.mark.ray
def test_what_a_smoke_run_made_is_no_start(pipeline, smoke, tmp_path):
    model = smoke.artifact("train_stage2")
    sets = [f"model.checkpoint={model}", "data.in=photographs-10", "data.ood=noise-smooth"]
    arguments = [word for text in sets for word in ("--set", text)]
    result = pipeline(*RECIPE, "--workdir", str(tmp_path), *arguments)
    assert result.code == 2
    assert any("a smoke run made it" in line for line in result.errors)


def test_configured_images_are_used_when_present(tmp_path):
    for folder in ("own/a", "own/b", "seeds"):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / folder / "0.png")
    own, seeds = str(tmp_path / "own"), str(tmp_path / "seeds")
    settings = smoke_settings(settings_of("cifar10", f"data.in={own}", f"data.ood={seeds}"), CPUS)
    assert (settings.data.in_, settings.data.ood) == (own, seeds)


@pytest.mark.parametrize(
    ("available", "workers", "gpus"),
    [({"CPU": 2, "GPU": 0}, 1, 0), ({"CPU": 64, "GPU": 8}, 8, 1), ({"CPU": 64, "GPU": 1}, 1, 0)],
    ids=["laptop", "node", "too-few"],
)
def test_workers_are_the_recipes_where_they_fit(available, workers, gpus):
    settings = smoke_settings(settings_of("imagenet256"), available)
    assert (settings.compute.num_workers, settings.compute.gpus_per_worker) == (workers, gpus)
    assert settings.stage2.batch_size % settings.compute.num_workers == 0
    assert check_settings(settings) == []
