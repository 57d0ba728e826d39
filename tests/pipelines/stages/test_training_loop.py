"""The loop around the steps: back once when it diverges, damaged checkpoints, a step that hangs."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from atjem.training_objective import Batch
from pipelines.context import Silent, StageContext
from pipelines.stages import train_stage1, train_stage2
from pipelines.stages.training_loop import Batches
from pipelines.workdir.checkpoints import checkpoint_steps
from tests.support.running import run_python
from tests.support.stages import Told, make_context, one_thread, tensors_equal

CHANGES = ("stage1.steps=20", "stage1.batch_size=16", "stage1.checkpoint_every=5", "compute.log_every=4")
LR = 0.1


@pytest.fixture(scope="module")
def data(inputs) -> Path:
    return inputs["data"]


def make(folder: Path, data: Path, *changes: str, report: Silent | None = None) -> StageContext:
    context = make_context(folder, {"data": data}, *CHANGES, *changes, node="train_stage1")
    return replace(context, report=report or Told())


def run(context: StageContext, places: range = range(0), seen: set[int] | None = None) -> dict[str, Any]:
    """Trains on data whose batches at some places are no images. `seen` gets the places of all batches."""
    sound = train_stage1._batches

    def with_bad_batches(own: StageContext, accumulate: int) -> Batches:
        batches = sound(own, accumulate)

        def batch(step: int) -> Batch:
            if seen is not None:
                seen.add(step)
            found = batches(step)
            return replace(found, x=found.x * torch.nan) if step in places else found

        return batch

    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_stage1, "_batches", with_bad_batches)
        return train_stage1.run(context)


def test_divergence_goes_back_once_on_by_other_batches_and_half_the_learning_rate(tmp_path, data):
    context = make(tmp_path, data)
    facts = run(context, range(12, 13))
    (back,) = facts["returns"]
    assert (back["from"], back["to"]) == (13, 10)
    assert back["why"].startswith("the loss is nan at step 13")
    assert facts["metrics"]["returned_at_step"] == 13
    assert facts["metrics"]["steps"] == 20
    curve = json.loads((context.folder / "curve.json").read_text())
    assert [point["step"] for point in curve] == [4, 8, 12, 16, 20]
    assert [point["lr"] for point in curve] == pytest.approx(
        [LR * cosine(step) * (0.5 if step > 10 else 1) for step in (4, 8, 12, 16, 20)]
    )
    (told,) = context.report.lines
    assert "goes back to step 10" in told


def cosine(step: int) -> float:
    return 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / 20, dtype=torch.float64)).item())


def test_other_batches_are_those_behind_the_ones_that_were_passed_over(tmp_path, data):
    """Batches 13 to 22 follow batch 9: the same as if they had come next."""
    seen: set[int] = set()
    run(make(tmp_path, data), range(12, 13), seen)
    assert seen == set(range(23))


def test_what_happened_is_part_of_what_a_checkpoint_holds(tmp_path, data):
    whole = make(tmp_path / "whole", data)
    facts = run(whole, range(12, 13))
    stopped = make(tmp_path / "stopped", data, report=Told(stop_after=14))
    with pytest.raises(Exception, match="stopped at step"):
        run(stopped, range(12, 13))
    again = replace(make(tmp_path / "again", data), checkpoints=stopped.checkpoints)
    assert run(again, range(12, 13)) == facts
    one, other = (load_file(context.folder / "model.safetensors") for context in (whole, again))
    assert tensors_equal(one, other)


def test_diverging_again_is_the_end_with_a_diagnosis(tmp_path, data):
    context = make(tmp_path, data)
    with pytest.raises(
        FloatingPointError, match=r"diverged again.*the loss is nan at step 11.*lower optimizer\.lr"
    ):
        run(context, range(12, 100))
    assert checkpoint_steps(context.checkpoints)[-1][0] == 10


def test_before_any_checkpoint_it_goes_back_to_the_start(tmp_path, data):
    facts = run(make(tmp_path, data), range(2, 3))
    assert [(back["from"], back["to"]) for back in facts["returns"]] == [(3, 0)]


def test_weights_that_are_no_numbers_are_never_saved(tmp_path, data):
    """A last step that blows up shows in no loss: only the weights tell."""
    context = make(
        tmp_path, data, "stage1.optimizer.lr=3e38", "stage1.optimizer.weight_decay=1e3", "stage1.steps=1"
    )
    with pytest.raises(FloatingPointError, match="at step 1"):
        run(context)


DAMAGE = {"trainer.pt": "flipped", "model.safetensors": "cut", "curve.json": "gone", "checksums.json": "cut"}


@pytest.mark.parametrize(("file", "how"), DAMAGE.items())
def test_damaged_checkpoint_is_told_and_the_one_before_it_used(tmp_path, data, file, how):
    stopped = make(tmp_path / "stopped", data, report=Told(stop_after=14))
    with pytest.raises(Exception, match="stopped at step 15"):
        run(stopped)
    (victim,) = stopped.checkpoints.glob(f"step_15/{file}")
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content if how == "flipped" else content[:-20])
    if how == "gone":
        victim.unlink()
    again = replace(make(tmp_path / "again", data), checkpoints=stopped.checkpoints)
    assert run(again)["metrics"]["steps"] == 20
    (told,) = again.report.lines
    assert re.match(rf"checkpoint step_15 is damaged \(.*{file}.*\), an earlier one is used", told)


def test_the_last_the_calm_and_the_best_checkpoints_are_kept(tmp_path, data):
    context = make(tmp_path, data, "stage1.checkpoint_every=2")
    run(context)
    steps = [step for step, _ in checkpoint_steps(context.checkpoints)]
    accuracy = {
        step: json.loads((path / "note.json").read_text())["figures"]["adversarial_accuracy"]
        for step, path in checkpoint_steps(context.checkpoints)
        if step
    }
    assert steps[-2:] == [18, 20]
    assert len(steps) <= 3
    assert max(accuracy, key=accuracy.__getitem__) in steps


HANGING = """
from pathlib import Path
import time
import tests.pipelines.stages.test_training_loop as loop
from pipelines.stages import train_stage1

sound = train_stage1._batches
def hangs(context, accumulate):
    batches = sound(context, accumulate)
    return lambda step: time.sleep(1000) if step == 7 else batches(step)
train_stage1._batches = hangs
context = loop.make(Path({folder!r}), Path({data!r}), "compute.stall_timeout=3")
loop.run(context)
"""


@pytest.mark.slow
def test_a_step_that_hangs_ends_its_process_and_leaves_its_stack(tmp_path, data):
    done = run_python("-c", HANGING.format(folder=str(tmp_path / "hung"), data=str(data)), timeout=200)
    assert done.code == 1, done.err
    again = replace(make(tmp_path / "again", data), checkpoints=tmp_path / "hung" / "checkpoints")
    assert run(again)["metrics"]["steps"] == 20
    (told,) = again.report.lines
    assert told.startswith("a worker made no step for ")
    stack = Path(told.rpartition(" ")[2]).read_text()
    assert "Timeout" in stack
    assert "training_loop.py" in stack


def test_no_steps_publish_what_they_start_from(tmp_path, inputs):
    """How a published model is measured without being trained (docs/published-checkpoints.md)."""
    given = {"data": inputs["data"], "start": inputs["model"]}
    context = make_context(tmp_path / "run", given, "stage2.steps=0", node="train_stage2")
    with one_thread():
        assert train_stage2.run(context)["metrics"] == {"steps": 0}
    before, after = (load_file(folder / "model.safetensors") for folder in (inputs["model"], context.folder))
    assert tensors_equal(before, after)
