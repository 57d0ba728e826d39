"""`stage2.select=best_frechet`: the model that a training keeps."""

import json

from pipelines.stages import train_stage2
from pipelines.stages.inputs import load_network, pick_device
from pipelines.stages.reference import read_held_out
from pipelines.stages.sampler import FrechetCurve, Sampler
from tests.support.stages import make_context

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
