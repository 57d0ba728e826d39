"""Training workers on Ray Train: as many as there is room for, through losses and gains of nodes.

Nothing here can change a result, so stages are given it (`StageContext.run_workers`) and do not import it.
"""

import secrets
import shutil
import threading
import time
from dataclasses import dataclass
from errno import ENOSPC
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer

from pipelines.causes import cause, innermost
from pipelines.compute.priority import mark_waiting, remove_groups, remove_mark
from pipelines.context import StageContext, Worker

if TYPE_CHECKING:
    from pipelines.settings import Compute, Stage

_RAY_FOLDER = ".ray_train"  # Ray Train's own books; our checkpoints are elsewhere
_SETTLE_SECONDS = 5.0  # until Ray knows which nodes are gone
_MOST_STARTS = 5  # in a row that come to nothing
_JOIN_SECONDS = 600.0  # to wait for a node that could bear a worker at all
_LOOK_SECONDS = 10.0  # between looks for nodes that have joined


def run_workers(worker: Worker, context: StageContext, stage: "Stage") -> None:
    """Runs `worker({"context": context})` on every Ray Train worker until the training has ended or stopped.

    A worker alone runs in this process: two others need not start first, which takes longer than many a run.
    Several go on with fewer when nodes are lost, and with more when nodes join, over the same global batch.
    Raises what ended them more often than `compute.max_restarts` allows.
    """
    try:
        if context.settings.compute.num_workers == 1 or not stage.steps:
            _run(worker, context, 0, use_gpu=stage.steps > 0)
        else:
            _Team(context, worker, stage).run()
    finally:
        shutil.rmtree(context.folder / _RAY_FOLDER, ignore_errors=True)
        context.mirror.push(context.checkpoints / _RAY_FOLDER)  # nothing is there, so it goes elsewhere too
        context.mirror.wait()


def _run(worker: Worker, context: StageContext, num: int, *, use_gpu: bool = True) -> None:
    """One Ray Train run; `num` 0 is one worker in this process. Raises what ended it.

    When a worker dies as it starts, Ray Train leaves its placement group behind. To find it, each worker asks
    for a number of bytes of memory, up to a mebibyte, that no other run asks for.
    """
    compute, books = context.settings.compute, context.folder / _RAY_FOLDER
    path, filesystem = context.mirror.storage(books) if num else (str(books), None)
    memory, gpu = 1 + secrets.randbelow(1 << 20), use_gpu and compute.gpus_per_worker > 0
    own = _resources(compute) if gpu else {"CPU": compute.cpus_per_worker}
    trainer = TorchTrainer(
        worker,
        train_loop_config={"context": context},
        scaling_config=ScalingConfig(
            num_workers=num,
            use_gpu=gpu,
            resources_per_worker=own | ({"memory": memory} if num else {}),
        ),
        run_config=RunConfig(
            name=f"{context.checkpoints.parent.name}-{context.checkpoints.name}-{time.time_ns()}",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
        ),
    )
    try:
        trainer.fit()
    finally:
        if num:
            remove_groups(memory)


def _resources(compute: "Compute") -> dict[str, float]:
    """Of one worker."""
    resources = {"CPU": compute.cpus_per_worker, "GPU": compute.gpus_per_worker}
    return {kind: amount for kind, amount in resources.items() if amount}


@dataclass(frozen=True)
class _Started:
    """A worker that no longer waits."""

    worker: Worker
    training: str

    def __call__(self, config: dict[str, Any]) -> None:
        remove_mark(self.training)
        self.worker(config)


class _Team:
    """As many workers as there is room for, up to those asked for, through losses and gains of nodes."""

    def __init__(self, context: StageContext, worker: Worker, stage: "Stage") -> None:
        self.context, self.worker, self.stage, self.compute = context, worker, stage, context.settings.compute
        self.restarts, self.name = 0, context.checkpoints.name

    def run(self) -> None:
        """Until the training has ended or stopped."""
        num, starts, waits = self._gather(), 0, 0
        if num < self.compute.num_workers:
            self._tell("there is no room for more", num)
        while True:
            try:
                if not self._run(num):
                    return
                why = "there is room for more workers"
            except ControllerError as error:  # they did not start
                if self._must_wait(error, num):
                    waits += 1
                    if waits.bit_count() == 1:  # more and more rarely
                        self.context.report.say(
                            f"{num} workers wait for what other work on the cluster holds"
                        )
                    continue
                starts += 1
                if starts == _MOST_STARTS:
                    raise
                why = cause(error)
            except (TrainingFailedError, RayError) as error:  # a worker's, or its controller's
                if self.restarts == self.compute.max_restarts or is_final(error):
                    raise
                self.restarts, starts = self.restarts + 1, 0
                why = f"{cause(error)} (restart {self.restarts} of {self.compute.max_restarts})"
                time.sleep(_SETTLE_SECONDS)
            num, waits = self._gather(), 0
            self._tell(why, num)

    def _must_wait(self, error: ControllerError, num: int) -> bool:
        """Whether they only waited in vain: all nodes are there, and what they need is taken for now."""
        timed_out = type(error.controller_failure).__name__ == "WorkerGroupStartupTimeoutError"
        return timed_out and self._room() >= num

    def _run(self, num: int) -> bool:
        """True when the workers were paused because more fit."""
        done, grew = threading.Event(), threading.Event()
        watcher = threading.Thread(target=self._watch, args=(num, done, grew), daemon=True)
        watcher.start()
        try:
            with mark_waiting(self.name, num, _resources(self.compute)):
                _run(_Started(self.worker, self.name), self.context, num)
        finally:
            done.set()
            watcher.join()
            self.context.report.pause(on=False)
        return grew.is_set()

    def _watch(self, num: int, done: threading.Event, grew: threading.Event) -> None:
        """Asks the workers to save themselves once nodes have joined that could bear more of them."""
        while not done.wait(_LOOK_SECONDS):
            if self._room() > num:
                grew.set()
                self.context.report.pause(on=True)
                return

    def _gather(self) -> int:
        """How many workers go on, once there is room for any. Raises RuntimeError when there stays none."""
        deadline = time.monotonic() + _JOIN_SECONDS
        while not (num := self._room()):
            if time.monotonic() > deadline:
                needs = f"{self.compute.cpus_per_worker} CPUs and {self.compute.gpus_per_worker:g} GPUs"
                raise RuntimeError(f"no node with {needs} for a training worker in {_JOIN_SECONDS:g} s")
            time.sleep(1)
        return num

    def _tell(self, why: str, num: int) -> None:
        wanted = self.compute.num_workers
        team = f"{num} workers" + ("" if num == wanted else f" in place of {wanted}")
        self.context.report.say(f"{why}; goes on from its last checkpoint with {team}, the same global batch")

    def _room(self) -> int:
        """The most workers, up to those asked for, that the nodes can bear and that share a batch evenly."""
        fits = 0
        for node in ray.nodes():
            if node["Alive"]:
                cpus, gpus = (node["Resources"].get(kind, 0) for kind in ("CPU", "GPU"))
                own = cpus // self.compute.cpus_per_worker
                if self.compute.gpus_per_worker:
                    own = min(own, gpus // self.compute.gpus_per_worker)
                fits += int(own)
        most = min(fits, self.compute.num_workers)
        even = (
            num for num in range(most, 0, -1) if self.stage.batch_size % (num * self.stage.accumulate) == 0
        )
        return next(even, 0)


def is_final(error: BaseException) -> bool:
    """Whether trying again would end the same way: a full disk does not empty itself."""
    inner = innermost(error)
    return isinstance(inner, FloatingPointError) or (isinstance(inner, OSError) and inner.errno == ENOSPC)
