"""N steps == k steps + power cut + the other N - k: everything that a checkpoint holds, bit for bit."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from safetensors.torch import load_file

from pipelines.compute.channel import MailReporter, open_mailbox
from pipelines.compute.cluster import session
from pipelines.workdir.checkpoints import checkpoint_steps
from tests.support.running import ROOT
from tests.support.stages import make_context, make_inputs, one_thread

pytestmark = pytest.mark.slow

STEPS, BATCH = 40, 128  # of 1,437 images: 11 steps an epoch
CHANGES = {
    "train_stage1": (
        f"stage1.steps={STEPS}",
        f"stage1.batch_size={BATCH}",
        "stage1.optimizer.schedule=cosine",
    ),
    "train_stage2": (
        f"stage2.steps={STEPS}",
        f"stage2.batch_size={BATCH}",
        "stage2.optimizer.warmup_steps=8",
        "stage2.contrastive.start_steps=1",
        "stage2.contrastive.max_steps=9",
        "stage2.contrastive.auc_threshold=0.01",  # a step more every three batches
        f"stage2.contrastive.auc_window_images={3 * BATCH}",
    ),
}
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


def trained(address: str, folder: Path, inputs: Path, stage: str, every: int, *changed: str) -> None:
    """A stage's whole training, as its node's process runs it; what the processes below do.

    address: of the Ray cluster that two workers train on; none for a worker alone, in this process.
    """
    changes = (*CHANGES[stage], f"{stage.removeprefix('train_')}.checkpoint_every={every}", *changed)
    roles = {"data": inputs / "data", "start": inputs / "model"}
    workers = f"compute.num_workers={2 if address else 1}"
    context = make_context(folder, roles, *changes, workers, node=stage)
    run = import_module(f"pipelines.stages.{stage}").run
    if not address:
        with one_thread():
            run(context)
        return
    with session(address, 0, 0, 1):
        report = MailReporter(open_mailbox(), stage)
        try:
            run(replace(context, report=report))
        finally:
            _, _, notes = ray.get(report.mailbox.take.remote())
            print(*(text for _, text in notes), sep="\n")  # noqa: T201


def state(folder: Path) -> dict[str, Any]:
    """Everything in the last checkpoint."""
    step, path = checkpoint_steps(folder / "checkpoints")[-1]
    assert step == STEPS
    trainer = torch.load(path / "trainer.pt", weights_only=True)
    texts = {name: (path / name).read_text() for name in ("curve.json", "course.json")}
    return {**_flat("", trainer), **load_file(path / "model.safetensors"), **texts}


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for name, inner in value.items() for k, v in _flat(f"{prefix}/{name}", inner).items()}
    return {prefix: value}


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        assert same, name


class Training:
    """A process that trains into a folder."""

    def __init__(
        self, folder: Path, address: str, inputs: Path, stage: str, every: int, *changed: str
    ) -> None:
        self.folder, self.log = folder, folder.with_suffix(".log")
        arguments = f"{address!r}, Path({str(folder)!r}), Path({str(inputs)!r}), {stage!r}, {every}"
        code = "from pathlib import Path; from test_exact_resume import trained; "
        paths = os.pathsep.join((str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "pipelines")))
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"{code}trained({arguments}, *{changed!r})"],
                env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
                stdout=out,
                stderr=out,
                cwd=ROOT,
            )

    def end(self) -> dict[str, Any]:
        assert self.process.wait(timeout=400) == 0, self.log.read_text()
        return state(self.folder)

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + 300
        steps = self.folder / "checkpoints"
        while max((found for found, _ in checkpoint_steps(steps)), default=-1) < step:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.002)

    def cut_power_at(self, step: int) -> None:
        """Kills whoever trains, and the process, as soon as the step's checkpoint is there."""
        self.wait_for_step(0)
        doomed = [psutil.Process(self.process.pid), *ray_processes("RayTrainWorker")]
        self.wait_for_step(step)
        for victim in doomed:
            victim.send_signal(signal.SIGKILL)
        self.process.wait()
        assert checkpoint_steps(self.folder / "checkpoints")[-1][0] == step


def ray_processes(role: str) -> list[psutil.Process]:
    """Those of Ray Train in a role: "RayTrainWorker" holds the model, "TrainController" looks after them."""
    family = psutil.Process().children(recursive=True)
    return [member for member in family if member.name().startswith(f"ray::{role}"[:15])]


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


def check(address: str, inputs: Path, expected: dict[str, Any], folder: Path, stage: str, cut: int) -> None:
    """checkpoint_every is the cut: the power fails with that very checkpoint on the disk."""
    Training(folder / "first", address, inputs, stage, cut).cut_power_at(cut)
    (folder / "second").mkdir()
    (folder / "first" / "checkpoints").rename(folder / "second" / "checkpoints")
    assert_equal(Training(folder / "second", address, inputs, stage, STEPS).end(), expected)


@places
def test_worker_alone_cut_off_ends_as_one_that_was_not(inputs, whole, tmp_path, stage, cut):
    check("", inputs, whole(stage, ""), tmp_path, stage, cut)


@pytest.mark.ray
@pytest.mark.faults
@places
def test_two_workers_cut_off_end_as_two_that_were_not(cluster, inputs, whole, tmp_path, stage, cut):
    check(cluster, inputs, whole(stage, cluster), tmp_path, stage, cut)


@pytest.mark.ray
@pytest.mark.faults
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
@pytest.mark.faults
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
