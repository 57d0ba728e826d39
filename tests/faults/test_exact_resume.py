"""N steps equal k steps, a power cut and N - k steps, bit for bit: with one worker and two."""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from pipelines.compute.cluster import session
from tests.support.resuming import STEPS, Training, assert_equal, check_cut, ray_processes
from tests.support.stages import make_inputs

pytestmark = pytest.mark.slow

places = pytest.mark.parametrize(
    ("stage", "cut"),
    [
        pytest.param("train_stage1", 5, id="stage 1, mid-epoch"),
        pytest.param("train_stage1", 11, id="stage 1, new epoch"),
        pytest.param("train_stage2", 5, id="stage 2, mid-epoch, mid-window"),
        pytest.param("train_stage2", 6, id="stage 2, new T"),
        pytest.param("train_stage2", 11, id="stage 2, new epoch"),
    ],
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a local one."""
    with session(None, 3, 0, 1):
        yield ray.get_runtime_context().gcs_address


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory) -> Callable[[str, str], dict[str, Any]]:
    """The uninterrupted training of a stage on a cluster, or alone, made once."""
    made: dict[tuple[str, str], dict[str, Any]] = {}

    def of(stage: str, address: str) -> dict[str, Any]:
        if (stage, address) not in made:
            folder = tmp_path_factory.mktemp("whole") / "run"
            made[stage, address] = Training(folder, address, inputs, stage, STEPS).end()
        return made[stage, address]

    return of


@places
def test_worker_alone_cut_off_ends_as_one_that_was_not(inputs, whole, tmp_path, stage, cut):
    check_cut("", inputs, whole(stage, ""), tmp_path, stage, cut)


@pytest.mark.ray
@places
def test_two_workers_cut_off_end_as_two_that_were_not(cluster, inputs, whole, tmp_path, stage, cut):
    check_cut(cluster, inputs, whole(stage, cluster), tmp_path, stage, cut)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("role", "sign"),
    [
        ("RayTrainWorker", signal.SIGKILL),
        ("RayTrainWorker", signal.SIGSTOP),
        ("TrainController", signal.SIGKILL),
    ],
    ids=["killed", "hanging", "controller"],
)
def test_lost_worker_is_replaced_and_the_end_is_the_same(cluster, inputs, whole, tmp_path, role, sign):
    """One of two: killed, or stopped, so that its peer waits for it until it is told that nothing moves."""
    expected = whole("train_stage2", cluster)
    training = Training(tmp_path / "run", cluster, inputs, "train_stage2", 4, "compute.stall_timeout=8")
    training.wait_for_step(8)
    ray_processes(role)[-1].send_signal(sign)
    assert_equal(training.end(), expected)
    log = training.log.read_text()
    assert "(restart 1 of 2); goes on from its last checkpoint with 2 workers" in log
    if sign == signal.SIGSTOP:
        assert "a worker made no step for 8 s; its stack is in" in log


@pytest.mark.ray
def test_workers_that_raise_are_started_again_and_then_fail_with_what_they_raised(cluster, inputs, tmp_path):
    copied = tmp_path / "inputs"
    shutil.copytree(inputs, copied)
    weights = copied / "model" / "model.safetensors"
    weights.rename(copied / "away")
    failing = Training(tmp_path / "run", cluster, copied, "train_stage2", STEPS)
    assert failing.process.wait(timeout=400) == 1
    before, restarted, after = failing.log.read_text().rpartition(
        "it has no model.safetensors (restart 2 of 2)"
    )
    assert "(restart 1 of 2)" in before
    assert restarted
    assert "(restart 3" not in after
    assert "CheckpointError" in after
