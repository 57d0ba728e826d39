"""What both training stages share around their loop: this worker's part, and the artifact they end in."""

import json
import shutil
from typing import TYPE_CHECKING, Any

import ray.train

from atjem.adversarial import ClassifierAttack
from atjem.balls import make_ball
from atjem.checkpoint_files import WEIGHTS_FILE
from data.images import Indices
from data.stream import rank_part
from pipelines.context import Interrupted, StageContext, Worker
from pipelines.files import read_json
from pipelines.stages.training_loop import DIVERGED_FILE
from pipelines.stages.training_state import BEST_FILE, BEST_STATE_FILE, COURSE_FILE, CURVE_FILE, Curve
from pipelines.workdir.checkpoints import sound_checkpoint

if TYPE_CHECKING:
    from pipelines.settings import Attack, Stage


def fit(
    context: StageContext, worker: Worker, stage: "Stage", *, may_diverge: bool = False
) -> dict[str, Any]:
    """Runs the worker function on every training worker, then publishes the last checkpoint.

    Raises Interrupted when the workers stopped early on request, FloatingPointError when the training
    diverged; with `may_diverge`, that is recorded as the outcome of its last sound checkpoint.
    """
    context.run_workers(worker, context, stage)
    context.mirror.pull()  # the first worker may have run on another machine
    return _publish(context, stage.end, may_diverge=may_diverge)


def make_attack(attack: "Attack") -> ClassifierAttack:
    return ClassifierAttack(make_ball(attack.norm, attack.eps), attack.step_size, attack.steps)


def share(stage: "Stage", accumulate: int) -> Indices:
    """This worker's part of every global batch, by micro-batches."""
    context = ray.train.get_context()
    return rank_part(stage.batch_size, context.get_world_rank(), context.get_world_size(), accumulate)


def _publish(context: StageContext, end: int, *, may_diverge: bool) -> dict[str, Any]:
    """The EMA model, or the best one seen, and the curve of the last checkpoint become the artifact."""
    diverged = read_json(context.checkpoints / DIVERGED_FILE)
    found = sound_checkpoint(context.checkpoints, end)
    if diverged and not (may_diverge and found):
        raise FloatingPointError(f"training {diverged['why']}")
    course = read_json(found[1] / COURSE_FILE) or {} if found else {}
    if found is None or (found[0] < end and not diverged and course.get("ended_at") != found[0]):
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
    returns = course.get("returns", [])
    if returns:
        last["returned_at_step"] = returns[-1]["from"]
    return {"metrics": {**last, "steps": found[0]}, "returns": returns}
