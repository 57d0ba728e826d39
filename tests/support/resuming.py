"""Runs a training stage in a process that can be killed, and reads its last checkpoint."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
from safetensors.torch import load_file

from pipelines.compute.channel import MailReporter, open_mailbox
from pipelines.compute.cluster import session
from pipelines.workdir.checkpoints import checkpoint_steps
from tests.support.running import ROOT
from tests.support.stages import make_context, one_thread

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


def trained(address: str, folder: Path, inputs: Path, stage: str, every: int, *changed: str) -> None:
    """Trains a stage to its end, as the process of its node does.

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
        code = "from pathlib import Path; from tests.support.resuming import trained; "
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"{code}trained({arguments}, *{changed!r})"],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
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
        """Kills the training workers and their driver as soon as the checkpoint of this step exists."""
        self.wait_for_step(0)
        doomed = [psutil.Process(self.process.pid), *ray_processes("RayTrainWorker")]
        self.wait_for_step(step)
        for victim in doomed:
            victim.send_signal(signal.SIGKILL)
        self.process.wait()
        assert checkpoint_steps(self.folder / "checkpoints")[-1][0] == step


def ray_processes(role: str) -> list[psutil.Process]:
    """Ray Train processes of a role: "RayTrainWorker" or "TrainController"."""
    family = psutil.Process().children(recursive=True)
    return [member for member in family if member.name().startswith(f"ray::{role}"[:15])]


def check_cut(
    address: str, inputs: Path, expected: dict[str, Any], folder: Path, stage: str, cut: int
) -> None:
    """checkpoint_every is the cut: the power fails with that very checkpoint on the disk."""
    Training(folder / "first", address, inputs, stage, cut).cut_power_at(cut)
    (folder / "second").mkdir()
    (folder / "first" / "checkpoints").rename(folder / "second" / "checkpoints")
    assert_equal(Training(folder / "second", address, inputs, stage, STEPS).end(), expected)
