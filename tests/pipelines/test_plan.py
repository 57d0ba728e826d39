"""What a plan reuses, resumes or runs."""

import pytest
import torch

from pipelines.plan import Plan, make_plan
from pipelines.workdir.checkpoints import new_checkpoint
from pipelines.workdir.store import Store, essence
from tests.support.recipes import settings_of
from tests.support.shared_workdir import publish


def _plan(store: Store, *changes: str) -> Plan:
    return make_plan(settings_of("digits", *changes), store)


def _publish(store: Store, name: str, metrics: dict[str, float]) -> None:
    """As a run would, from what is there."""
    step = _plan(store).steps[name]
    made_from = {
        role: essence(store.manifest(needed, str(_plan(store).steps[needed].fingerprint)) or {})
        for role, needed in step.node.needs.items()
    }
    facts = {"node": name, "identity": dict(step.identity), "made_from": made_from, "metrics": metrics}
    publish(store, {"file": b"x"}, str(step.fingerprint), step.node.stage, **facts)


@pytest.mark.parametrize(
    ("again", "action"),
    [
        ({"num_images": 10, "images_per_second": 5.0}, "cached"),
        ({"num_images": 10, "images_per_second": 9.0}, "cached"),
        ({"num_images": 11, "images_per_second": 5.0}, "run"),
    ],
    ids=["same", "time", "other"],
)
def test_what_came_out_differently_makes_run_again_what_was_made_from_it(tmp_path, again, action):
    store = Store(tmp_path)
    _publish(store, "preprocess", {"num_images": 10, "images_per_second": 5.0})
    _publish(store, "train_stage1", {"loss": 1.0})
    _publish(store, "preprocess", again)
    steps = _plan(store).steps
    assert steps["preprocess"].action == "cached"
    assert steps["train_stage1"].action == action
    assert (steps["train_stage1"].reason == "preprocess came out differently") == (action == "run")


def test_a_look_shares_the_checkpoints_and_nothing_else(tmp_path):
    whole, look = _plan(Store(tmp_path)), _plan(Store(tmp_path), "stage2.until=100")
    ours, theirs = (plan.steps["train_stage2"] for plan in (whole, look))
    assert ours.fingerprint != theirs.fingerprint
    assert ours.key == theirs.key == ours.fingerprint
    assert whole.steps["sample"].fingerprint != look.steps["sample"].fingerprint
    assert whole.steps["train_stage1"].fingerprint == look.steps["train_stage1"].fingerprint
    assert _plan(Store(tmp_path), "stage2.until=800").steps["train_stage2"].fingerprint == ours.fingerprint


def test_a_look_goes_on_only_from_what_lies_before_it(tmp_path):
    store = Store(tmp_path)
    key = str(_plan(store).steps["train_stage2"].key)
    for step in (40, 200):
        with new_checkpoint(store.checkpoints("train_stage2", key), step) as path:
            torch.save({}, path / "trainer.pt")
    assert _plan(store).steps["train_stage2"].reason == "goes on from the checkpoint at step 200"
    early = _plan(store, "stage2.until=100").steps["train_stage2"]
    assert (early.action, early.reason) == ("resume", "goes on from the checkpoint at step 40")
    assert _plan(store, "stage2.until=30").steps["train_stage2"].action == "run"
