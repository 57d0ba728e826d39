"""MLflow's side of a run, on a real SQLite store: reopening, no duplicate points, no orphans."""

from dataclasses import replace
from functools import partialmethod

import pytest
from mlflow import MlflowClient

from pipelines.recipe import RECIPES, load_recipe
from pipelines.tracking.tracker import Tracker
from pipelines.trial import Trial
from tests.support.publisher import logged_steps
from tests.support.running import run_python


@pytest.fixture
def tracker(store) -> Tracker:
    return Tracker(store.uri, "recipe", store.workdir / "mlartifacts")


def test_unfinished_run_is_reopened_and_a_finished_one_is_not(tracker):
    first = tracker.open_parent("abc", "recipe", {"seed": 1}, {})
    tracker.close(first, "failed", "because")
    assert tracker.client.get_run(first).info.status == "FAILED"
    assert tracker.open_parent("abc", "recipe", {"seed": 1}, {}) == first
    assert tracker.client.get_run(first).info.status == "RUNNING"
    assert tracker.open_parent("other", "recipe", {"seed": 2}, {}) != first
    tracker.close(first, "done")
    assert tracker.open_parent("abc", "recipe", {"seed": 1}, {}) != first


def test_stage_run_is_reopened_under_the_same_parent_only(tracker):
    parent = tracker.open_parent("abc", "recipe", {}, {})
    stage = tracker.open_stage(parent, "sample", "f1", {})
    assert tracker.open_stage(parent, "sample", "f1", {}) == stage
    assert tracker.open_stage(parent, "sample", "f2", {}) != stage
    assert tracker.open_stage("another", "sample", "f1", {}) != stage


def test_points_are_logged_once_even_by_a_new_driver(tracker, tmp_path):
    run = tracker.open_parent("abc", "recipe", {}, {})
    points = [{"step": step, "loss": float(step)} for step in (1, 2, 3)]
    tracker.points(run, points[:2])
    tracker.points(run, points[:2])
    Tracker(tracker.uri, "recipe", tmp_path / "mlartifacts").points(run, points)
    assert logged_steps(tracker.uri, run) == [1, 2, 3]


def test_more_points_than_one_call_takes(tracker):
    run = tracker.open_parent("abc", "recipe", {}, {})
    tracker.points(run, [{"step": step, "a": 0.5, "b": 1.5} for step in range(700)], prefix="stage1_")
    assert len(tracker.client.get_metric_history(run, "stage1_b")) == 700


@pytest.mark.slow
def test_run_of_a_dead_process_is_closed(tracker, tmp_path):
    code = (
        "import sys; from pathlib import Path; from pipelines.tracking.tracker import Tracker\n"
        f"t = Tracker({tracker.uri!r}, 'recipe', Path({str(tmp_path)!r}))\n"
        "p = t.open_parent('dead', 'recipe', {}, {}); print(p, t.open_stage(p, 'sample', 'f', {}))"
    )
    parent, stage = run_python("-c", code).out.split()
    assert tracker.client.get_run(stage).info.status == "RUNNING"
    own = tracker.open_parent("abc", "recipe", {}, {})
    tracker.close_orphans(None)
    assert tracker.client.get_run(parent).info.status == "KILLED"
    assert tracker.client.get_run(stage).info.status == "KILLED"
    assert tracker.client.get_run(own).info.status == "RUNNING"  # its process, this one, lives


def test_run_that_says_it_works_in_a_workdir_that_is_held_is_closed(tracker):
    tags = {"atjem.workdir": "/workspace/runs"}
    own, other = (
        tracker.open_parent(name, "recipe", {}, {**tags, "atjem.workdir_id": name}) for name in ("a", "b")
    )
    tracker.close_orphans("a")
    assert tracker.client.get_run(own).info.status == "KILLED"
    assert tracker.client.get_run(other).info.status == "RUNNING"


def test_all_runs_are_found_however_many_there_are(tracker, monkeypatch):
    by_two = partialmethod(MlflowClient.search_runs, max_results=2)
    monkeypatch.setattr(MlflowClient, "search_runs", by_two)
    runs = [tracker.open_parent(str(number), "recipe", {}, {"atjem.workdir_id": "a"}) for number in range(5)]
    tracker.close_orphans("a")
    assert {tracker.client.get_run(run).info.status for run in runs} == {"KILLED"}


def test_secrets_do_not_reach_params_and_tags(tracker):
    secret = {"data.in": "s3://key:hush@bucket", "overrides": "data.in=https://bob:hush@host/x"}
    for run in (
        tracker.open_parent("abc", "recipe", secret, {"where": "http://a:hush@b"}),
        tracker.open_sweep("digits-1", "a", secret, {}, "here"),
    ):
        data = tracker.client.get_run(run).data
        assert data.params.keys() == secret.keys()
        assert "hush" not in str(data.params) + str(data.tags)


def test_a_sweeps_run_is_found_by_its_identity_and_not_by_its_name(tracker):
    first = tracker.open_sweep("digits-1", "a", {"sampler": "tpe"}, {}, "here")
    assert tracker.open_sweep("digits-1", "a", {"sampler": "tpe"}, {}, "here") == first
    assert tracker.open_sweep("digits-1", "b", {"sampler": "tpe"}, {}, "here") != first


def test_a_trial_has_one_run_under_its_sweeps_whatever_becomes_of_it(tracker):
    sweep = tracker.open_sweep("digits-1", "a", {}, {}, "here")
    trial = Trial("digits-1", sweep, 3, seed=None, rung=None)
    run = tracker.open_parent("fingerprint", "trial 3", {}, {}, trial=trial)
    tracker.close(run, "failed", "it diverged")
    assert tracker.open_parent("another", "trial 3", {}, {}, trial=trial) == run
    assert tracker.parent_of(run) == sweep
    assert tracker.open_parent("another", "recipe", {}, {}) != run  # a pipeline run of the same fingerprint
    other = replace(trial, parent=tracker.open_sweep("digits-1", "b", {}, {}, "here"))
    assert tracker.open_parent("another", "trial 3", {}, {}, trial=other) != run


def test_repeats_go_under_their_trials_run(tracker):
    sweep = tracker.open_sweep("digits-1", "a", {}, {}, "here")
    trial = Trial("digits-1", sweep, 3, seed=None, rung=None)
    run = tracker.open_parent("fingerprint", "trial 3", {}, {}, trial=trial)
    repeat = tracker.open_parent("other", "seed 1", {}, {}, trial=replace(trial, seed=1))
    assert tracker.parent_of(repeat) == run
    orphan = tracker.open_parent("third", "seed 1", {}, {}, trial=replace(trial, number=4, seed=1))
    assert tracker.parent_of(orphan) == sweep  # the trial's own run is gone


@pytest.mark.parametrize("name", ["my recipe (1)", "größe 2,5", "a+b=c@d", "-x"])
def test_recipe_names_are_experiments_within_the_workdir(store, tmp_path, name):
    (tmp_path / f"{name}.yaml").write_text((RECIPES / "digits.yaml").read_text())
    recipe, _ = load_recipe(str(tmp_path / f"{name}.yaml"))
    tracker = Tracker(store.uri, recipe.name, tmp_path / "mlartifacts")
    run = tracker.open_parent("abc", name, {}, {})
    tracker.client.log_text(run, "text", "a.txt")
    assert (tmp_path / "mlartifacts" / name / run / "artifacts" / "a.txt").read_text() == "text"


def test_an_mlflow_tag_and_a_param_of_a_megabyte(tracker):
    """Long values are truncated to a length that every store accepts."""
    huge = "x" * (1 << 20)
    run = tracker.open_parent("abc", "title", {"data.in": huge}, {"atjem.workdir": huge})
    tracker.tag(run, {"atjem.reason": huge})
    data = tracker.client.get_run(run).data
    lengths = {len(data.params["data.in"]), len(data.tags["atjem.reason"]), len(data.tags["atjem.workdir"])}
    assert lengths == {5000}
