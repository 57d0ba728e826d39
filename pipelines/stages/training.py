"""The training loop of both stages, on Ray Train: restore, step, report, checkpoint, publish."""

import faulthandler
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from atjem.adversarial import ClassifierAttack
from atjem.balls import make_ball
from atjem.checkpoint import save_model
from atjem.checkpoint_files import WEIGHTS_FILE
from atjem.curriculum import Curriculum
from atjem.ema import Ema
from atjem.learner import Learner
from atjem.models.precision import allow_tf32
from atjem.models.registry import JointEnergyModel
from atjem.optim import make_optimizer, make_schedule
from atjem.training_objective import Batch, Objective
from data.stream import Ahead, rank_slice
from pipelines.checkpoints import new_checkpoint, sound_checkpoint
from pipelines.context import Interrupted, StageContext
from pipelines.files import read_json, write_json
from pipelines.stages.inputs import pick_device

if TYPE_CHECKING:
    from pipelines.settings import Attack, Compute, Stage
    from pipelines.stages.selection import BestModel

TRAINER_FILE = "trainer.pt"
CURVE_FILE = "curve.json"
DIVERGED_FILE = "diverged.json"
BEST_FILE, BEST_STATE_FILE = "best.safetensors", "best.json"
_RAY_FOLDER = ".ray_train"  # Ray Train's own books; our checkpoints are elsewhere
Curve = list[dict[str, float]]
Batches = Callable[[int], Batch]


def fit(
    context: StageContext,
    worker: Callable[[dict[str, Any]], None],
    stage: "Stage",
    *,
    may_diverge: bool = False,
) -> dict[str, Any]:
    """Runs `worker({"context": context})` on every Ray Train worker, then publishes the last checkpoint.

    A worker alone runs in this process: two others need not start first, which takes longer than many a run.
    Raises Interrupted when the workers stopped early on request, FloatingPointError when the training
    diverged; with `may_diverge`, that is recorded as the outcome of its last sound checkpoint.
    """
    compute = context.settings.compute
    resources = {"CPU": compute.cpus_per_worker, "GPU": compute.gpus_per_worker}
    name = f"{context.checkpoints.parent.name}-{context.checkpoints.name}-{time.time_ns()}"
    trainer = TorchTrainer(
        worker,
        train_loop_config={"context": context},
        scaling_config=ScalingConfig(
            num_workers=compute.num_workers if compute.num_workers > 1 else 0,
            use_gpu=compute.gpus_per_worker > 0,
            resources_per_worker={kind: amount for kind, amount in resources.items() if amount},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(context.folder / _RAY_FOLDER),
            failure_config=FailureConfig(max_failures=compute.max_restarts),
        ),
    )
    trainer.fit()
    shutil.rmtree(context.folder / _RAY_FOLDER, ignore_errors=True)
    return _publish(context, stage.end, may_diverge=may_diverge)


def worker_device() -> torch.device:
    """The one that Ray gave this worker."""
    alone = ray.train.get_context().get_world_size() == 1
    return pick_device() if alone else ray.train.torch.get_device()


def make_attack(attack: "Attack") -> ClassifierAttack:
    return ClassifierAttack(make_ball(attack.norm, attack.eps), attack.step_size, attack.steps)


def share(stage: "Stage") -> slice:
    """This worker's part of every global batch."""
    context = ray.train.get_context()
    return rank_slice(stage.batch_size, context.get_world_rank(), context.get_world_size())


def train(
    context: StageContext,
    stage: "Stage",
    model: JointEnergyModel,
    objective: Objective,
    batches: Batches,
    curriculum: Curriculum | None = None,
    chooser: "BestModel | None" = None,
) -> None:
    """The loop on one worker, from the last sound checkpoint to `stage.end` or a request to stop."""
    compute, device = context.settings.compute, worker_device()
    learner = _make_learner(stage, model.to(device), objective, curriculum, compute)
    context.checkpoints.mkdir(parents=True, exist_ok=True)
    (context.checkpoints / DIVERGED_FILE).unlink(missing_ok=True)
    end = stage.end
    first, curve = _restore(context.checkpoints, end, learner, chooser, device)
    is_lead = ray.train.get_context().get_world_rank() == 0
    context.report.points(curve if is_lead else [])
    clock, agreement = _Clock(first), _Agreement(device)
    losses: list[Tensor] = []  # since the last point, still on their device
    batches = Ahead(batches, end)
    for step in range(first, end):
        faulthandler.dump_traceback_later(compute.stall_timeout, exit=True, file=2)
        metrics = learner.step(batches(step))
        done = step + 1
        losses.append(metrics["loss"])
        if done % compute.log_every == 0 or done == end:
            curve.append(_point(done, metrics, learner))
            if (bad := _first_broken(losses)) is not None:
                at = {"step": done - len(losses) + 1 + bad, "loss": losses[bad].item()}
                write_json(context.checkpoints / DIVERGED_FILE, at)
                break
            losses.clear()
            context.report.points(curve[-1:] if is_lead else [])
        looking = chooser is not None and chooser.is_due(done)
        saving = done % stage.checkpoint_every == 0 or done == end
        if (looking or saving) and not _is_finite(
            learner.model
        ):  # neither samples nor checkpoints would tell
            write_json(context.checkpoints / DIVERGED_FILE, {"step": done, "loss": math.nan})
            break
        if chooser is not None and looking:
            faulthandler.cancel_dump_traceback_later()
            _look(chooser, done, learner, curve, device)
            context.report.points(curve[-1:] if is_lead else [])
        if is_lead:
            watched = {
                **(curve[-1] if curve else {}),
                "images_per_second": clock.rate(done) * stage.batch_size,
            }
            context.report.progress(done, end, "steps", **watched)
        stopping = agreement.reached(is_lead and context.report.stopping())
        if is_lead and (saving or stopping):
            _save(context.checkpoints, done, learner, curve, chooser)
        if stopping:
            break
    else:
        if is_lead and first == end == 0:
            _save(context.checkpoints, 0, learner, curve, chooser)
    faulthandler.cancel_dump_traceback_later()


def _make_learner(
    stage: "Stage",
    model: JointEnergyModel,
    objective: Objective,
    curriculum: Curriculum | None,
    compute: "Compute",
) -> Learner:
    allow_tf32(compute.precision)
    model = model.to(memory_format=torch.channels_last)
    settings = stage.optimizer
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
    alone = ray.train.get_context().get_world_size() == 1
    learner = Learner(
        model,
        objective,
        optimizer,
        schedule,
        Ema(model, stage.ema_decay),
        curriculum,
        accumulate=stage.accumulate,
        clip_norm=settings.clip_norm,
        precision=compute.precision,
        ddp=None if alone else DistributedDataParallel(model),
        compiled=compute.compile,
    )
    model.backbone.recompute = compute.activation_checkpointing  # not of the average and the attacks' twin
    return learner


def _first_broken(losses: list[Tensor]) -> int | None:
    """The place of the first loss that is no number; one look at all of them is one wait for the device."""
    broken = (~torch.stack(losses).isfinite()).nonzero()
    return int(broken[0]) if len(broken) else None


def _is_finite(model: torch.nn.Module) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())


def _look(chooser: "BestModel", done: int, learner: Learner, curve: Curve, device: torch.device) -> None:
    """Adds the look's figure to the point of this step."""
    distance = chooser.look(done, learner.ema.module.eval(), device)
    point = {"step": done, "selection_frechet_distance": distance}
    if curve and curve[-1]["step"] == done:
        curve[-1] |= point
    else:
        curve.append(point)


def _restore(
    folder: Path, end: int, learner: Learner, chooser: "BestModel | None", device: torch.device
) -> tuple[int, Curve]:
    """The step to begin with, and the curve so far."""
    found = sound_checkpoint(folder, end)
    if found is None:
        return 0, []
    step, path = found
    state = torch.load(path / TRAINER_FILE, map_location=device, weights_only=True)
    learner.load_state_dict(state)
    if chooser:
        chooser.restore(path)
    return step, json.loads((path / CURVE_FILE).read_text())


def _save(folder: Path, step: int, learner: Learner, curve: Curve, chooser: "BestModel | None") -> None:
    with new_checkpoint(folder, step) as path:
        torch.save(learner.state_dict(), path / TRAINER_FILE)
        save_model(learner.ema.module if step else learner.model, path)
        (path / CURVE_FILE).write_text(json.dumps(curve))
        if chooser:
            chooser.save(path)


def _publish(context: StageContext, end: int, *, may_diverge: bool) -> dict[str, Any]:
    """The EMA model, or the best one seen, and the curve of the last checkpoint become the artifact."""
    diverged = read_json(context.checkpoints / DIVERGED_FILE)
    found = sound_checkpoint(context.checkpoints, end)
    if diverged and not (may_diverge and found):
        loss, step = diverged["loss"], diverged["step"]
        raise FloatingPointError(f"training diverged: the loss is {loss} at step {step}; lower optimizer.lr")
    if found is None or (found[0] < end and not diverged):
        at = "before its first checkpoint" if found is None else f"at step {found[0]} of {end}"
        raise Interrupted(f"stopped {at}")
    for file in found[1].iterdir():
        if file.name.startswith("model.") or file.name == CURVE_FILE:
            shutil.copy2(file, context.folder)
    curve: Curve = json.loads((context.folder / CURVE_FILE).read_text())
    kept_apart = ("step", "selection_frechet_distance")
    point = curve[-1] if curve else {}
    last = {f"final_{name}": value for name, value in point.items() if name not in kept_apart}
    best = read_json(found[1] / BEST_STATE_FILE)
    if best is not None:
        shutil.copy2(found[1] / BEST_FILE, context.folder / WEIGHTS_FILE)
        last |= {"selected_step": best["step"], "selected_frechet_distance": best["frechet_distance"]}
    if diverged:
        last["diverged_at_step"] = diverged["step"]
    return {"metrics": {**last, "steps": found[0]}}


def _point(step: int, metrics: dict[str, torch.Tensor], learner: Learner) -> dict[str, float]:
    values = {name: value.item() for name, value in sorted(metrics.items())}
    return {"step": step, **values, "lr": learner.optimizer.param_groups[0]["lr"]}


class _Agreement:
    """The first worker's wish to stop, on all workers.

    With several it is known a step later: reading it at once would make every step wait for the one before.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.told = device, torch.zeros((), device=device)

    def reached(self, wish: bool) -> bool:
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return wish
        before = self.told
        self.told = torch.full_like(before, float(wish))
        dist.broadcast(self.told, src=0)
        return bool(before.item())


class _Clock:
    def __init__(self, first: int) -> None:
        self.first, self.started = first, time.monotonic()

    def rate(self, done: int) -> float:
        """Steps a second since the loop began."""
        return (done - self.first) / max(1e-9, time.monotonic() - self.started)
