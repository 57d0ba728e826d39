"""The loop of both training stages on one worker: step, watch, look, save, tell; back when it goes wrong."""

import faulthandler
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from atjem.curriculum import Curriculum
from atjem.ema import Ema
from atjem.health import WATCHED, Watchdog
from atjem.learner import Learner
from atjem.models.precision import allow_tf32
from atjem.models.registry import JointEnergyModel
from atjem.models.synced_norm import synchronise_norms
from atjem.optim import make_optimizer, make_schedule
from atjem.training_objective import Batch, Objective
from data.stream import Ahead, shares
from pipelines.context import StageContext
from pipelines.files import write_json
from pipelines.stages.inputs import pick_device
from pipelines.stages.training_state import Saver, TrainingState
from pipelines.workdir.checkpoints import checkpoint_steps, sound_checkpoint

if TYPE_CHECKING:
    from pipelines.settings import Compute, Stage
    from pipelines.stages.selection import BestModel

DIVERGED_FILE = "diverged.json"
STALLED_FILE = "stalled.log"
Batches = Callable[[int], Batch]
_T = "contrastive_steps"
_UNSEEN = 50  # steps at most until their metrics are looked at: one wait for the device each time
_SLOWER = 0.5  # what a return multiplies the learning rate with


def train(
    context: StageContext,
    stage: "Stage",
    model: JointEnergyModel,
    objective: Objective,
    batches: Batches,
    watchdog: Watchdog,
    *,
    accumulate: int,
    curriculum: Curriculum | None = None,
    chooser: "BestModel | None" = None,
    may_return: bool = True,
) -> None:
    """Trains from the last sound checkpoint to `stage.end`, a request to stop, or divergence.

    accumulate: micro-batches a step, which may be more than planned where workers are fewer.
    A training that diverges goes back once to its last calm checkpoint and on from there by other batches and
    half the learning rate, if it `may_return`; what it did is part of its state, and of its artifact.
    """
    table = shares(stage.batch_size, _world_size(), accumulate)
    model = model.to(worker_device())
    learner = _make_learner(stage, model, objective, curriculum, context.settings.compute, table)
    state = TrainingState(learner, watchdog, chooser)
    _Loop(context, stage, state, batches, may_return=may_return).run()


def worker_device() -> torch.device:
    """The one that Ray gave this worker."""
    return pick_device() if _world_size() == 1 else ray.train.torch.get_device()


class _Loop:
    def __init__(
        self,
        context: StageContext,
        stage: "Stage",
        state: TrainingState,
        batches: Batches,
        *,
        may_return: bool,
    ) -> None:
        self.context, self.stage, self.state, self.may_return = context, stage, state, may_return
        self.device, self.is_lead = worker_device(), ray.train.get_context().get_world_rank() == 0
        self.folder, self.log_every = context.checkpoints, context.settings.compute.log_every
        self.folder.mkdir(parents=True, exist_ok=True)
        self.make, self.done = batches, 0
        self.unseen: list[tuple[int, dict[str, Tensor]]] = []  # steps and metrics, still on their device
        self.saver = Saver(self.folder, context.report.say, self._send)
        self.agreement = _Agreement(self.device)
        self.ended = False

    def run(self) -> None:
        self.context.mirror.pull()
        _meet()  # before anything is written that another's pull would take away
        (self.folder / DIVERGED_FILE).unlink(missing_ok=True)
        if self.is_lead:
            self._send(self.folder / DIVERGED_FILE)
        self._begin()
        with (self.folder / STALLED_FILE).open("a") as log:
            try:
                while self.done < self.stage.end and not self.ended:
                    timeout = self.context.settings.compute.stall_timeout
                    faulthandler.dump_traceback_later(timeout, exit=True, file=log)
                    self._step()
            finally:
                faulthandler.cancel_dump_traceback_later()
        (self.folder / STALLED_FILE).unlink(missing_ok=True)
        self.saver.close()

    def _begin(self) -> None:
        """Restores what there is; what a training may go back to is on disk before its first step."""
        report = self.context.report
        if self.is_lead:
            self._tell_of_stall()
        found = sound_checkpoint(self.folder, self.stage.end, on_damage=report.say if self.is_lead else None)
        if found is not None:
            self.done, path = found
            self.state.restore(path, self.device)
            self.ended = self.state.course.ended_at is not None
        elif self.is_lead:
            self.saver.save(0, self.state)
        self.clock = _Clock(self.done)
        self._open_batches()
        if self.is_lead:
            report.points(self.state.curve)

    def _send(self, path: Path) -> None:
        """What is at a path, or that nothing is, to where workers and runs on other machines find it."""
        self.context.mirror.push(path)
        self.context.mirror.wait()

    def _tell_of_stall(self) -> None:
        """What a worker that was ended for making no step wrote before it went."""
        log = self.folder / STALLED_FILE
        if log.exists() and log.stat().st_size:
            kept = log.with_name(f"stalled-{sum(1 for _ in self.folder.glob('stalled-*.log')) + 1}.log")
            log.rename(kept)
            timeout = self.context.settings.compute.stall_timeout
            self.context.report.say(f"a worker made no step for {timeout:g} s; its stack is in {kept}")

    def _open_batches(self) -> None:
        skipped = self.state.course.skipped
        self.batches = Ahead(lambda step: self.make(step + skipped), self.stage.end)

    def _step(self) -> None:
        metrics = self.state.learner.step(self.batches(self.done))
        self.done += 1
        self.unseen.append((self.done, metrics))
        chooser, last = self.state.chooser, self.done == self.stage.end
        looking = chooser is not None and chooser.is_due(self.done)
        logging = last or looking or self.done % self.log_every == 0
        saving = last or self.done % self.stage.checkpoint_every == 0
        stopping = self.agreement.reached(self.is_lead and self.context.report.stopping())
        examining = logging or looking or saving or stopping or len(self.unseen) >= _UNSEEN
        wrong = self._examine(weights=looking or saving or stopping) if examining else None
        if wrong is not None:
            self._diverged(*wrong)
            return
        if logging:
            self._log(metrics)
        if looking:
            self._look()
        self._tell()
        self.ended = stopping or self.state.course.ended_at is not None
        if self.is_lead and (saving or self.ended):
            self.saver.save(self.done, self.state)

    def _examine(self, *, weights: bool) -> tuple[int, str] | None:
        """The first unseen step at which something is wrong, and what. weights: look at them too."""
        unseen, self.unseen = self.unseen, []
        seen = [{name: own[name] for name in (*WATCHED, _T) if name in own} for _, own in unseen]
        numbers = iter(torch.stack([value.double() for own in seen for value in own.values()]).tolist())
        for (step, _), own in zip(unseen, seen, strict=True):
            values = {name: next(numbers) for name in own}
            if wrong := self.state.watchdog.look(step, values, int(values.pop(_T, 0))):
                return step, wrong
        if weights and not _is_finite(self.state.learner.model):
            return self.done, f"weights are not finite at step {self.done}; lower optimizer.lr"
        return None

    def _diverged(self, step: int, why: str) -> None:
        """Back to the last calm checkpoint, the first time; the end, the second."""
        self.saver.wait()
        _meet()
        self.context.mirror.pull()
        found = sound_checkpoint(self.folder, step, calm=True)
        if not self.may_return or self.state.course.returns or found is None:
            if self.is_lead:
                again = "diverged again" if self.state.course.returns else "diverged"
                write_json(self.folder / DIVERGED_FILE, {"step": step, "why": f"{again}: {why}"})
                self._send(self.folder / DIVERGED_FILE)
            self.ended = True
            return
        self.done, path = found
        self.state.restore(path, self.device)
        _meet()  # nobody reads it any more when it is written again
        self.state.learner.scale_lr(_SLOWER)
        self.state.course.skipped += step - self.done
        self.state.course.returns.append({"from": step, "to": self.done, "why": why})
        self._open_batches()
        if self.is_lead:
            self._forget_after(self.done)
            self.saver.save(self.done, self.state)
            course = f"goes back to step {self.done}, on by other batches and half the learning rate"
            self.context.report.say(f"{why.split(';')[0]}: {course}")

    def _forget_after(self, step: int) -> None:
        for later, path in checkpoint_steps(self.folder, self.stage.end):
            if later > step:
                shutil.rmtree(path, ignore_errors=True)

    def _log(self, metrics: dict[str, Tensor]) -> None:
        names = sorted(metrics)
        numbers = torch.stack([metrics[name].double() for name in names]).tolist()  # one wait for the device
        values = dict(zip(names, numbers, strict=True))
        lr = self.state.learner.optimizer.param_groups[0]["lr"]
        self.state.curve.append({"step": self.done, **values, "lr": lr})
        if self.is_lead:
            self.context.report.points(self.state.curve[-1:])

    def _look(self) -> None:
        """Adds the look's figure to the point of this step. It may take longer than steps do."""
        chooser, curve = self.state.chooser, self.state.curve
        assert chooser is not None
        faulthandler.cancel_dump_traceback_later()
        distance = chooser.look(self.done, self.state.learner.ema.module.eval(), self.device)
        point = {"step": self.done, "selection_frechet_distance": distance}
        if curve and curve[-1]["step"] == self.done:
            curve[-1] |= point
        else:
            curve.append(point)
        if self.is_lead:
            self.context.report.points(curve[-1:])
        if chooser.is_out_of_patience:
            self.state.course.ended_at = self.done
            if self.is_lead:
                best = f"the best samples so far are of step {chooser.state['step']}"
                self.context.report.say(f"ends at step {self.done} of {self.stage.end}: {best}")

    def _tell(self) -> None:
        if self.is_lead:
            latest = self.state.curve[-1] if self.state.curve else {}
            rate = self.clock.rate(self.done) * self.stage.batch_size
            watched = {**latest, "images_per_second": rate}
            self.context.report.progress(self.done, self.stage.end, "steps", **watched)


def _make_learner(
    stage: "Stage",
    model: JointEnergyModel,
    objective: Objective,
    curriculum: Curriculum | None,
    compute: "Compute",
    table: list[list[int]],
) -> Learner:
    allow_tf32(compute.precision)
    torch.backends.cudnn.benchmark = True  # every step has the same shapes
    model = model.to(memory_format=torch.channels_last)
    alone, settings = _world_size() == 1, stage.optimizer
    if not alone:
        synchronise_norms(model)
    optimizer = make_optimizer(
        model.parameters(),
        name=settings.name,
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        betas=settings.betas,
    )
    schedule = make_schedule(
        optimizer, schedule=settings.schedule, warmup_steps=settings.warmup_steps, total_steps=stage.steps
    )
    learner = Learner(
        model,
        objective,
        optimizer,
        schedule,
        Ema(model, stage.ema_decay),
        curriculum,
        shares=table,
        clip_norm=settings.clip_norm,
        precision=compute.precision,
        # buffers are equal on all workers: frozen, or of statistics taken over all of them
        ddp=None if alone else DistributedDataParallel(model, broadcast_buffers=False),
        compiled=compute.compile,
    )
    model.backbone.recompute = compute.activation_checkpointing  # not of the average and the attacks' twin
    return learner


def _is_finite(model: torch.nn.Module) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())


def _world_size() -> int:
    return int(ray.train.get_context().get_world_size())


def _meet() -> None:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()


class _Agreement:
    """The first worker's wish to stop, on all workers.

    With several it is known a step later, when what was told has long been copied to the CPU: to read it on
    the device would be to wait for the step that runs there.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, on_gpu = device, device.type == "cuda"
        self.told = torch.zeros((), pin_memory=on_gpu)
        self.copied = torch.cuda.Event() if on_gpu else None

    def reached(self, wish: bool) -> bool:
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return wish
        if self.copied:
            self.copied.synchronize()
        before = bool(self.told)
        everyone = torch.full((), float(wish), device=self.device)
        dist.broadcast(everyone, src=0)
        self.told.copy_(everyone, non_blocking=True)
        if self.copied:
            self.copied.record()
        return before


class _Clock:
    def __init__(self, first: int) -> None:
        self.first, self.started = first, time.monotonic()

    def rate(self, done: int) -> float:
        """Steps a second since the loop began."""
        return (done - self.first) / max(1e-9, time.monotonic() - self.started)
