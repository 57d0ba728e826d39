"""`stage2.until`: a training looked at before its end is the same training, and goes on exactly."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from pipelines.plan import Plan, make_plan
from pipelines.recipe import load_recipe
from pipelines.stages import train_stage2
from pipelines.workdir.checkpoints import checkpoint_steps, new_checkpoint, sound_checkpoint
from pipelines.workdir.store import Store
from tests.support.stages import make_context, make_inputs, one_thread, tensors_equal

TRAINING = (
    "stage2.batch_size=16",
    "stage2.contrastive.start_steps=1",
    "stage2.contrastive.max_steps=2",
    "stage2.checkpoint_every=2",
    "stage2.optimizer.schedule=cosine",
)


def _plan(folder: Path, *changes: str) -> Plan:
    recipe, problems = load_recipe("digits", changes)
    assert not problems
    return make_plan(recipe.settings, Store(folder))


def test_training_that_was_looked_at_ends_like_one_that_was_not(tmp_path):
    made = make_inputs(tmp_path / "inputs")
    inputs = {"data": made["data"], "start": made["model"]}

    def trained(name: str, checkpoints: str, *changes: str) -> Path:
        context = make_context(tmp_path / name, inputs, *TRAINING, *changes, node="train_stage2")
        facts = train_stage2.run(replace(context, checkpoints=tmp_path / checkpoints))
        assert facts["metrics"]["steps"] == context.settings.stage2.end
        return context.folder

    with one_thread():
        whole = trained("whole", "a", "stage2.steps=6")
        trained("early", "b", "stage2.steps=6", "stage2.until=1")
        look = trained("look", "b", "stage2.steps=6", "stage2.until=3")
        gone_on = trained("gone_on", "b", "stage2.steps=6")
        back = trained("back", "a", "stage2.steps=6", "stage2.until=3")  # after the end was reached
    weights = {path: load_file(path / "model.safetensors") for path in (whole, look, gone_on, back)}
    assert tensors_equal(weights[whole], weights[gone_on])
    assert tensors_equal(weights[look], weights[back])
    assert not tensors_equal(weights[look], weights[whole])
    assert {step for step, _ in checkpoint_steps(tmp_path / "a")} >= {4, 6}  # those of the longer training


def test_a_look_shares_the_checkpoints_and_nothing_else(tmp_path):
    whole, look = _plan(tmp_path), _plan(tmp_path, "stage2.until=100")
    ours, theirs = (plan.steps["train_stage2"] for plan in (whole, look))
    assert ours.fingerprint != theirs.fingerprint
    assert ours.key == theirs.key == ours.fingerprint
    assert whole.steps["sample"].fingerprint != look.steps["sample"].fingerprint
    assert whole.steps["train_stage1"].fingerprint == look.steps["train_stage1"].fingerprint
    assert _plan(tmp_path, "stage2.until=800").steps["train_stage2"].fingerprint == ours.fingerprint


def test_a_look_goes_on_only_from_what_lies_before_it(tmp_path):
    key = str(_plan(tmp_path).steps["train_stage2"].key)
    for step in (40, 200):
        with new_checkpoint(Store(tmp_path).checkpoints("train_stage2", key), step) as path:
            torch.save({}, path / "trainer.pt")
    assert _plan(tmp_path).steps["train_stage2"].reason == "goes on from the checkpoint at step 200"
    early = _plan(tmp_path, "stage2.until=100").steps["train_stage2"]
    assert (early.action, early.reason) == ("resume", "goes on from the checkpoint at step 40")
    assert _plan(tmp_path, "stage2.until=30").steps["train_stage2"].action == "run"


def test_an_earlier_end_keeps_the_checkpoints_of_a_later_one(tmp_path):
    for step in (700, 800, 100, 200, 300):
        with new_checkpoint(tmp_path, step) as path:
            (path / "trainer.pt").write_bytes(b"x")
    assert [step for step, _ in checkpoint_steps(tmp_path)] == [200, 300, 700, 800]
    assert sound_checkpoint(tmp_path, 400) == (300, tmp_path / "step_300")
    assert sound_checkpoint(tmp_path) == (800, tmp_path / "step_800")


def test_an_end_beyond_the_last_step_is_refused():
    _, [problem] = load_recipe("digits", ["stage2.until=801"])
    assert str(problem) == "error: stage2.until: 801; must be at most steps=800"
