"""Stage 2: its objectives, and `stage2.until`, which ends training early."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pipelines.stages import train_stage2
from pipelines.workdir.checkpoints import checkpoint_steps
from tests.support.stages import make_context, tensors_equal

TRAINING = (
    "stage2.batch_size=16",
    "stage2.contrastive.start_steps=1",
    "stage2.contrastive.max_steps=2",
    "stage2.checkpoint_every=2",
    "stage2.optimizer.schedule=cosine",
)


@pytest.fixture(scope="module")
def start(inputs) -> dict[str, Path]:
    return {"data": inputs["data"], "start": inputs["model"]}


def test_training_that_was_looked_at_ends_like_one_that_was_not(tmp_path, start):
    def trained(name: str, checkpoints: str, *changes: str) -> Path:
        context = make_context(tmp_path / name, start, *TRAINING, *changes, node="train_stage2")
        facts = train_stage2.run(replace(context, checkpoints=tmp_path / checkpoints))
        assert facts["metrics"]["steps"] == context.settings.stage2.end
        return context.folder

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


@pytest.mark.parametrize("objective", ["at", "jem"])
def test_other_objectives_are_one_setting(objective, start, tmp_path):
    changes = (f"stage2.objective={objective}", "stage2.sgld.buffer_size=100", "stage2.sgld.steps=2")
    context = make_context(tmp_path, start, *TRAINING, *changes, "stage2.steps=4", node="train_stage2")
    assert train_stage2.run(context)["metrics"]["steps"] == 4
    curve = json.loads((context.folder / "curve.json").read_text())
    assert ("energy_contrast" in curve[-1]) == (objective == "jem")
