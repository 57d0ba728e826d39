"""Workers of a training that cannot start yet: real Ray Train on two CPUs, of which others hold one."""

from dataclasses import replace

import pytest
from ray.util.placement_group import placement_group, remove_placement_group

from pipelines.compute.cluster import session
from pipelines.compute.team import run_workers
from pipelines.recipe import load_recipe
from tests.support.slow_parts import Touch
from tests.support.stages import Told, make_context

pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Patient(Told):
    """Takes away what holds a worker's CPU once the user has been told twice that it is in the way."""

    def say(self, text: str) -> None:
        super().say(text)
        if len(self.lines) == 2:
            remove_placement_group(self.other)


def test_workers_that_cannot_start_yet_wait_and_say_so(tmp_path, monkeypatch):
    """A time-out of their start is no failure while all nodes are there."""
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "3")
    recipe, _ = load_recipe("digits", [])
    report = Patient()
    context = make_context(tmp_path, {}, "compute.num_workers=2", node="train_stage1")
    with session(None, 2, 0, 1, also=("tests",)):
        report.other = placement_group([{"CPU": 1}])
        assert report.other.wait(60)
        run_workers(Touch(tmp_path), replace(context, report=report), recipe.settings.stage1)
    assert sorted(path.name for path in tmp_path.glob("rank-*")) == ["rank-0", "rank-1"]
    assert report.lines == ["2 workers wait for what other work on the cluster holds"] * 2


def test_training_without_steps_needs_no_gpu_and_no_other_process(tmp_path):
    changes = ("compute.num_workers=2", "compute.gpus_per_worker=1", "stage1.steps=0")
    context = make_context(tmp_path, {}, *changes, node="train_stage1")
    with session(None, 2, 2, 1, also=("tests",)):
        other = placement_group([{"GPU": 2}])
        assert other.wait(60)
        run_workers(Touch(tmp_path), context, context.settings.stage1)
    assert [path.name for path in tmp_path.glob("rank-*")] == ["rank-0"]
