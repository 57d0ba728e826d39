"""Workers of a training that cannot start yet, and as many as nodes have room for."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import ray
from ray.train import ControllerError, TrainingFailedError
from ray.util.placement_group import placement_group, remove_placement_group

from pipelines.compute import team
from pipelines.compute.cluster import session
from pipelines.compute.team import run_workers
from pipelines.recipe import load_recipe
from tests.support.slow_parts import Touch
from tests.support.stages import Told, make_context


class Patient(Told):
    """Takes away what holds a worker's CPU once the user has been told twice that it is in the way."""

    def say(self, text: str) -> None:
        super().say(text)
        if len(self.lines) == 2:
            remove_placement_group(self.other)


@pytest.mark.ray
@pytest.mark.slow
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


@pytest.mark.ray
@pytest.mark.slow
def test_training_without_steps_needs_no_gpu_and_no_other_process(tmp_path):
    changes = ("compute.num_workers=2", "compute.gpus_per_worker=1", "stage1.steps=0")
    context = make_context(tmp_path, {}, *changes, node="train_stage1")
    with session(None, 2, 2, 1, also=("tests",)):
        other = placement_group([{"GPU": 2}])
        assert other.wait(60)
        run_workers(Touch(tmp_path), context, context.settings.stage1)
    assert [path.name for path in tmp_path.glob("rank-*")] == ["rank-0"]


class Nodes:
    """Nodes of one CPU, in the place of Ray's, and their time; each start of the workers is one of `events`.

    An event is what the start raises; or the number of a checkpoint that is there when the workers are lost;
    or None, when they end. `room` gives the number of nodes at each look, the last one from then on.
    """

    def __init__(self, monkeypatch, context, room, events):
        self.room, self.events, self.context, self.started = list(room), list(events), context, []
        self.now = 0.0
        monkeypatch.setattr(ray, "nodes", self.nodes)
        monkeypatch.setattr(team, "_run", self.run)
        monkeypatch.setattr(team, "time", self)
        monkeypatch.setattr(team, "mark_waiting", lambda *_: nullcontext())

    def sleep(self, seconds):
        self.now += seconds

    def monotonic(self):
        return self.now

    def nodes(self):
        num = self.room.pop(0) if len(self.room) > 1 else self.room[0]
        return [{"Alive": True, "Resources": {"CPU": 1.0}}] * num

    def run(self, worker, context, num, accumulate):
        self.started.append((num, accumulate))
        event = self.events.pop(0)
        if isinstance(event, int):
            (self.context.checkpoints / f"step_{event}").mkdir(parents=True, exist_ok=True)
            raise TrainingFailedError("a worker was lost")
        if event is not None:
            raise event


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Trains on a batch of 48; returns (workers, micro-batches) of each start, and the lines told."""

    def run(room, events, *changes, stop_after=10**9, **own):
        settings = ("compute.num_workers=4", "stage1.batch_size=48", *changes)
        report = Told(stop_after)
        context = replace(make_context(tmp_path, {}, *settings, node="train_stage1"), report=report, **own)
        nodes = Nodes(monkeypatch, context, room, events)
        run_workers(None, context, context.settings.stage1)
        return nodes.started, report.lines

    return run


@pytest.mark.parametrize(
    ("room", "may_split", "started"),
    [(4, True, (4, 1)), (3, True, (3, 2)), (1, True, (1, 4)), (3, False, (3, 1))],
)
def test_fewer_workers_hold_no_more_images_where_micro_batches_may_shrink(train, room, may_split, started):
    assert train([room], [None], may_split=may_split)[0] == [started]


@pytest.mark.parametrize(("looks", "started"), [(500, (4, 1)), (700, (2, 1))])
def test_first_start_waits_ten_minutes_for_all_workers(train, looks, started):
    found, lines = train([0, 1, *[2] * looks, 4], [None])
    assert found == [started]
    waited = "waits for nodes with 1 CPU for each of 4 workers: there is room for"
    assert lines[:2] == [f"{waited} 0", f"{waited} 2, which are enough after 10 minutes"]


def test_goes_on_with_what_is_left_and_with_all_that_come_back(train):
    started, lines = train([4, 3], [10, None])
    assert started == [(4, 1), (3, 1)]
    assert "3 workers in place of 4, the same global batch" in lines[-1]


def test_waits_for_the_least_number_without_limit_and_says_so_each_minute(train):
    started, lines = train([4, *[2] * 7200, 3], [10, None], least_workers=3)
    assert started == [(4, 1), (3, 1)]
    waited = "waits for nodes with 1 CPU for each of 4 workers: there is room for 2, and 3 are needed"
    assert lines[:-1] == [waited] * 120


def test_waiting_ends_when_the_run_is_to_stop(train):
    assert train([0], [], stop_after=0)[0] == []


def test_restarts_count_anew_after_each_checkpoint(train):
    started, _ = train([4], [10, 10, 20, 20, 30, 30, None], "compute.max_restarts=2")
    assert len(started) == 7


def test_more_losses_than_restarts_between_two_checkpoints_end_the_training(train):
    with pytest.raises(TrainingFailedError, match="lost"):
        train([4], [10, 20, 20, 20, None], "compute.max_restarts=2")


def test_what_cannot_start_five_times_in_a_row_fails(train):
    broken = ControllerError(RuntimeError("no CUDA device"))
    with pytest.raises(ControllerError):
        train([4], [broken] * 5)
