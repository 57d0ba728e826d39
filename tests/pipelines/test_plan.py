"""An artifact counts while what it was made from is what it was, whatever its fingerprint says."""

import pytest

from pipelines.plan import Plan, make_plan
from pipelines.recipe import load_recipe
from pipelines.workdir.store import Store, essence


def _plan(store: Store) -> Plan:
    return make_plan(load_recipe("digits")[0].settings, store)


def _publish(store: Store, name: str, metrics: dict[str, float]) -> None:
    """As a run would, from what is there."""
    step = _plan(store).steps[name]
    made_from = {
        role: essence(store.manifest(needed, str(_plan(store).steps[needed].fingerprint)) or {})
        for role, needed in step.node.needs.items()
    }
    with store.new_artifact(step.node.stage, str(step.fingerprint)) as draft:
        (draft.folder / "file").write_text("x")
        facts = {"node": name, "run_id": "r", "created": 1.0, "seconds": 1.0, "identity": dict(step.identity)}
        draft.publish({"fingerprint": step.fingerprint, "made_from": made_from, "metrics": metrics, **facts})


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
