"""`--status` and `--plan` beside a finished run."""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_plan_and_status_after_a_run(demo, pipeline):
    def planned(**changed):
        result = pipeline(*demo.arguments(**changed), "--plan", "--json")
        return {stage["name"]: stage for stage in result.json["stages"]}

    assert {stage["status"] for stage in planned().values()} == {"cached"}
    changed = planned(sample__step_size=0.1)
    assert changed["train_stage2"]["status"] == changed["evaluate_classifier"]["status"] == "cached"
    assert changed["sample"]["status"] == "run"
    assert changed["sample"]["reason"] == "changed setting: sample.step_size"
    assert pipeline(*demo.arguments(), "--status", "--json").json["status"] == "done"
