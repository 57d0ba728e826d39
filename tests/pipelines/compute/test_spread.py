"""Parts as Ray tasks on a cluster that has GPUs by name: trainings go first, and a failed part is told of."""

import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayTaskError
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

from pipelines.compute.cluster import session
from pipelines.compute.priority import mark_waiting, remove_groups, remove_mark, training_waits
from pipelines.compute.spread import spread
from pipelines.context import StageContext
from tests.support.servers import wait_until
from tests.support.slow_parts import Slowly
from tests.support.stages import make_context

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """This machine, said to have eight GPUs."""
    with session(None, 8, 8, 1, also=("tests",)):
        yield


@pytest.fixture
def context(tmp_path) -> StageContext:
    return make_context(tmp_path, {}, "compute.num_workers=8", "compute.gpus_per_worker=1")


def test_parts_go_to_tasks_that_run(context, tmp_path):
    """Two long evaluations hold two of eight GPUs: the other six make all parts."""
    with ExitStack() as stack:
        for _ in range(2):
            stack.callback(remove_placement_group, taken({"CPU": 1, "GPU": 1}))
        assert sorted(spread(context, Slowly(tmp_path), range(40))) == list(range(40))


def taken(bundle: dict[str, float], num: int = 1):
    group = placement_group([bundle] * num)
    assert group.wait(60)
    return group


def test_waiting_training_gets_what_parts_leave_and_parts_get_it_back(context, tmp_path):
    """The parts that are being made are finished, and no other is begun before the training has begun."""
    parts = spread(context, Slowly(tmp_path, stuck=range(8)), range(24))
    made = [next(parts)]
    with mark_waiting("training", 8, {"CPU": 1, "GPU": 1}):
        (tmp_path / "go").touch()
        training = placement_group([{"CPU": 1, "GPU": 1}] * 8)
        made += [next(parts) for _ in range(len(begun(tmp_path)) - 1)]
        assert training.wait(60)
        assert len(begun(tmp_path)) < 24
    remove_placement_group(training)
    assert sorted([*made, *parts]) == list(range(24))


def begun(folder: Path) -> list[str]:
    time.sleep(1)  # for tasks that were submitted before
    return [path.name for path in folder.iterdir() if path.name.isdigit()]


def test_training_that_waits_for_another_training_holds_nothing_up():
    """What parts leave would not be enough for it."""
    assert not training_waits()
    with mark_waiting("training", 6, {"GPU": 1}):
        assert training_waits()
        other = taken({"GPU": 1}, num=4)
        assert not training_waits()
        remove_placement_group(other)
        wait_until(training_waits, 30)
        remove_mark("training")
        wait_until(lambda: not training_waits(), 30)


def test_failed_part_fails_the_stage_and_frees_its_workers(context, tmp_path):
    with pytest.raises(RayTaskError, match="part -1 cannot be made"):
        list(spread(context, Slowly(tmp_path, stuck=[1]), [1, 2, -1]))
    wait_until(lambda: ray.available_resources().get("GPU") == 8, 60)


def test_group_that_a_dead_training_left_behind_is_removed():
    left, other = taken({"GPU": 4, "memory": 4711}), taken({"GPU": 4, "memory": 4712})
    remove_groups(4711)
    wait_until(lambda: ray.available_resources().get("GPU") == 4, 60)
    assert placement_group_table(left)["state"] == "REMOVED"
    remove_placement_group(other)
