"""`stage2.select=best_frechet`: the model that a training keeps."""

import json
from dataclasses import replace

import pytest

from pipelines.context import Interrupted
from pipelines.stages import train_stage2
from pipelines.stages.inputs import load_network, pick_device
from pipelines.stages.reference import read_held_out
from pipelines.stages.sampler import FrechetCurve, Sampler
from tests.support.stages import Told, make_context

CHANGES = (
    "stage2.steps=6",
    "stage2.batch_size=16",
    "stage2.contrastive.start_steps=1",
    "stage2.contrastive.max_steps=2",
    "stage2.select=best_frechet",
    "stage2.select_every=2",
    "stage2.select_samples=20",
)


def test_the_kept_model_is_the_best_one_seen(inputs, tmp_path):
    own = {"data": inputs["data"], "start": inputs["model"], "reference": inputs["reference"]}
    context = make_context(tmp_path, own, *CHANGES, node="train_stage2")
    selected = train_stage2.run(context)["metrics"]["selected_step"]
    curve = json.loads((context.folder / "curve.json").read_text())
    found = {p["step"]: p["selection_frechet_distance"] for p in curve if "selection_frechet_distance" in p}
    assert set(found) == {2, 4, 6}
    assert found[selected] == min(found.values())
    sampler = Sampler(context, load_network(context.folder, pick_device()), pick_device())
    reference = own["reference"]
    again = FrechetCurve(reference, None, read_held_out(reference)).measure(sampler, 20)
    assert min(again.values()) == found[selected]


def test_patience_ends_a_training_after_looks_without_a_better_one(inputs, tmp_path, monkeypatch):
    """Distances 3, 2, 5, 4: step 4 is the best one. A run that is cut off in between ends the same."""
    own = {"data": inputs["data"], "start": inputs["model"], "reference": inputs["reference"]}
    changes = (*CHANGES, "stage2.steps=20", "stage2.patience=2", "stage2.checkpoint_every=20")
    distances = {2: 3.0, 4: 2.0, 6: 5.0, 8: 4.0}
    report = Told(stop_after=6)
    context = replace(make_context(tmp_path, own, *changes, node="train_stage2"), report=report)
    monkeypatch.setattr(FrechetCurve, "measure", lambda *_, **__: {1: distances[report.done + 1]})
    with pytest.raises(Interrupted, match="stopped at step"):
        train_stage2.run(context)
    report.stop_after = 100
    for _ in range(2):  # what has ended stays ended
        facts = train_stage2.run(context)
        metrics = facts["metrics"]
        assert (metrics["steps"], metrics["selected_step"], metrics["selected_frechet_distance"]) == (
            8,
            4,
            2.0,
        )
    assert report.lines == ["ends at step 8 of 20: the best samples so far are of step 4"]
