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

from ray.exceptions import RayError
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from pipelines.causes import cause, innermost
from pipelines.compute.priority import mark_waiting, remove_groups, remove_mark
from pipelines.compute.room import room, worker_in_words, worker_resources
from pipelines.context import StageContext, Worker
from pipelines.workdir.checkpoints import checkpoint_steps

if TYPE_CHECKING:
    from pipelines.settings import Stage

_RAY_FOLDER = ".ray_train"  # Ray Train's own books; our checkpoints are elsewhere
_SETTLE_SECONDS = 5.0  # until Ray knows which nodes are gone
_MOST_STARTS = 5  # in a row that come to nothing
_JOIN_SECONDS = 600.0  # that the first start waits for all workers, if nodes are still to join
_LOOK_SECONDS = 10.0  # between looks for nodes that have joined
_MEET_SECONDS = 86400  # that a worker waits for others, while they fetch shards: `stall_timeout` finds hangs
_SAY_SECONDS = 60.0  # between lines that say what is waited for


def run_workers(worker: Worker, context: StageContext, stage: "Stage") -> None:
    """Runs `worker` on every Ray Train worker until the training has ended or stopped.

    It gets {"context": context, "accumulate": micro-batches a step}. A worker alone runs in this process: two
    others need not start first, which takes longer than many a run. Several go on with fewer when nodes are
    lost, and with more when nodes join, over the same global batch. Raises what ended them more often between
    two checkpoints than `compute.max_restarts` allows.
    """
    try:
        if context.settings.compute.num_workers == 1 or not stage.steps:
            _run(worker, context, 0, stage.accumulate, use_gpu=stage.steps > 0)
        else:
            _Team(context, worker, stage).run()
    finally:
        shutil.rmtree(context.folder / _RAY_FOLDER, ignore_errors=True)
        context.mirror.push(context.checkpoints / _RAY_FOLDER)  # nothing is there, so it goes elsewhere too
        context.mirror.wait()


def _run(worker: Worker, context: StageContext, num: int, accumulate: int, *, use_gpu: bool = True) -> None:
    """One Ray Train run; `num` 0 is one worker in this process. Raises what ended it.

    When a worker dies as it starts, Ray Train leaves its placement group behind. To find it, each worker asks
    for a number of bytes of memory, up to a mebibyte, that no other run asks for.
    """
    compute, books = context.settings.compute, context.folder / _RAY_FOLDER
    path, filesystem = context.mirror.storage(books) if num else (str(books), None)
    memory, gpu = 1 + secrets.randbelow(1 << 20), use_gpu and compute.gpus_per_worker > 0
    own = worker_resources(compute) if gpu else {"CPU": compute.cpus_per_worker}
    trainer = TorchTrainer(
        worker,
        train_loop_config={"context": context, "accumulate": accumulate},
        scaling_config=ScalingConfig(
            num_workers=num,
            use_gpu=gpu,
            resources_per_worker=own | ({"memory": memory} if num else {}),
        ),
        torch_config=TorchConfig(timeout_s=_MEET_SECONDS),
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
        self.restarts, self.saved, self.name = 0, 0, context.checkpoints.name

    def run(self) -> None:
        """Until the training has ended or stopped."""
        num, starts, waits = self._gather(_JOIN_SECONDS), 0, 0
        if num < self.compute.num_workers:
            self._tell("there is no room for more", num)
        while num:
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
                    if self.context.report.stopping(ask=True):
                        return
                    continue
                starts += 1
                if starts == _MOST_STARTS:
                    raise
                why = cause(error)
            except (TrainingFailedError, RayError) as error:  # a worker's, or its controller's
                self._count_loss()
                if self.restarts > self.compute.max_restarts or is_final(error):
                    raise
                starts = 0
                why = f"{cause(error)} (restart {self.restarts} of {self.compute.max_restarts})"
                time.sleep(_SETTLE_SECONDS)
            num, waits = self._gather(), 0
            self._tell(why, num)

    def _count_loss(self) -> None:
        """Since the last checkpoint."""
        self.context.mirror.pull()  # the first worker may have run on another machine
        saved = max((step for step, _ in checkpoint_steps(self.context.checkpoints)), default=0)
        self.restarts = 1 + (self.restarts if saved == self.saved else 0)
        self.saved = saved

    def _must_wait(self, error: ControllerError, num: int) -> bool:
        """Whether they only waited in vain: all nodes are there, and what they need is taken for now."""
        timed_out = type(error.controller_failure).__name__ == "WorkerGroupStartupTimeoutError"
        return timed_out and room(self.compute) >= num

    def _run(self, num: int) -> bool:
        """True when the workers were paused because more fit."""
        done, grew = threading.Event(), threading.Event()
        watcher = threading.Thread(target=self._watch, args=(num, done, grew), daemon=True)
        watcher.start()
        try:
            with mark_waiting(self.name, num, worker_resources(self.compute)):
                _run(_Started(self.worker, self.name), self.context, num, self._micro_batches(num))
        finally:
            done.set()
            watcher.join()
            self.context.report.pause(on=False)
        return grew.is_set()

    def _watch(self, num: int, done: threading.Event, grew: threading.Event) -> None:
        """Asks the workers to save themselves once nodes have joined that could bear more of them."""
        while not done.wait(_LOOK_SECONDS):
            if room(self.compute) > num:
                grew.set()
                self.context.report.pause(on=True)
                return

    def _gather(self, patience: float = 0.0) -> int:
        """How many workers go on, once there is room for enough; 0 when the run is to stop.

        patience: seconds that all of them are waited for before fewer are enough.
        """
        wanted, least = self.compute.num_workers, self.context.least_workers
        began = time.monotonic()
        say_at = began
        while (num := room(self.compute)) < wanted:
            now = time.monotonic()
            if num >= least and now - began >= patience:
                break
            if self.context.report.stopping(ask=True):
                return 0
            if now >= say_at:
                self._say_waiting(num, patience)
                say_at += _SAY_SECONDS
            time.sleep(1)
        return num

    def _say_waiting(self, num: int, patience: float) -> None:
        """Why no worker runs although `num` could."""
        compute, least = self.compute, self.context.least_workers
        line = f"waits for nodes with {worker_in_words(compute)} for each of {compute.num_workers} workers: "
        line += f"there is room for {num}"
        if num >= least:
            line += f", which are enough after {patience / 60:g} minutes"
        elif least > 1:
            line += f", and {least} are needed"
        self.context.report.say(line)

    def _micro_batches(self, num: int) -> int:
        """As many as planned; or, where they may shrink, so many that no worker holds more images."""
        stage = self.stage
        most, found = _ceil(stage.batch_size, self.compute.num_workers * stage.accumulate), stage.accumulate
        if self.context.may_split:
            while _ceil(stage.batch_size, found * num) > most and (found + 1) * num <= stage.batch_size:
                found += 1
        return found

    def _tell(self, why: str, num: int) -> None:
        if num:
            wanted = self.compute.num_workers
            team = f"{num} workers" + ("" if num == wanted else f" in place of {wanted}")
            course = f"goes on from its last checkpoint with {team}, the same global batch"
            self.context.report.say(f"{why}; {course}")


def _ceil(total: int, parts: int) -> int:
    return -(-total // parts)


def is_final(error: BaseException) -> bool:
    """Whether trying again would end the same way: a full disk does not empty itself."""
    inner = innermost(error)
    return isinstance(inner, FloatingPointError) or (isinstance(inner, OSError) and inner.errno == ENOSPC)
