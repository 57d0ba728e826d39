"""A real sweep over Ray Tune, Optuna and MLflow."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from pipelines.provenance import git_commit
from tests.support.browser import BROWSER, PICTURES, chromium, mlflow_ui, open_page
from tests.support.running import ROOT
from tests.support.sweeping import NAME, TRIALS, Swept, check_runs, new_sweep, run

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Swept:
    workdir = tmp_path_factory.mktemp("sweep")
    swept = Swept(workdir, run([*new_sweep(workdir), "--json"]))
    assert swept.result.code == 0, swept.result.err
    assert swept.result.json["status"] == "done"
    return swept


def test_trial_that_diverges_fails_with_its_cause_and_the_others_go_on(swept):
    trials = swept.study.trials
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert trials[0].params == {"stage2.optimizer.lr": 0.01, "sample.step_size": 0.2}
    assert {trial.state.name for trial in trials} == {"COMPLETE", "FAIL"}
    failed = [trial for trial in trials if trial.state.name == "FAIL"]
    assert {trial.params["stage2.optimizer.lr"] for trial in failed} == {1e30}
    assert all("diverged" in trial.user_attrs["cause"] for trial in failed)
    assert all("diverged" in row["cause"] for row in swept.result.json["trials"] if row["state"] == "failed")


def test_mlflow_holds_the_sweep_its_trials_and_their_stages_once(swept):
    check_runs(swept)
    assert {run.data.tags["git.commit"] for run in swept.runs()} == {git_commit()}
    [parent] = [run for run in swept.runs() if run.data.tags.get("atjem.kind") == "sweep"]
    files = {file.path for file in swept.client.list_artifacts(parent.info.run_id)}
    assert {"best.yaml", "space.yaml", "trials.json", "figures"} <= files
    assert "Objectives: frechet_distance:min" in parent.data.tags["mlflow.note.content"]


def test_what_no_parameter_changes_is_made_once(swept):
    made = Counter(path.parent.parent.name for path in swept.workdir.glob("artifacts/*/*/manifest.json"))
    complete = sum(trial.state.name == "COMPLETE" for trial in swept.study.trials)
    assert made["preprocess"] == made["reference_stats"] == made["train_stage1"] == 1
    assert made["train_stage2"] == 1  # the trials that did not diverge differ in sample.step_size alone
    assert made["sample"] == complete > 1
    runs = Counter(run.data.tags.get("atjem.stage") for run in swept.runs())
    assert runs["preprocess"] == runs["train_stage1"] == 1


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
    query = f"runs={json.dumps(ids, separators=(',', ':'))}&experiments=[%22{experiment}%22]"
    with mlflow_ui(workdir, tmp_path / "log") as address, chromium() as browser:
        page = open_page(browser, f"{address}/#/compare-runs?{query}", width=1300, height=1500)
        page.wait_for_text("trial 0 (the recipe itself)", "sample.step_size", "Parallel Coordinates Plot")
        page.wait_for("document.querySelectorAll('[role=switch]').length > 1")
        page.page.evaluate(
            "document.querySelectorAll('[role=switch]')[0].click()"
        )  # parameters: show diff only
        page.wait_for("!document.body.innerText.includes('data.image_size')")
        page.only_asked(address)
        page.take((ROOT / "docs" if PICTURES else tmp_path) / "mlflow-sweep.png")
