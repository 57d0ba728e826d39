"""When a run counts as reproduced."""

import json

import pytest

from pipelines.reproduction import Reproduction, judged, other_circumstances

THEN = {"accuracy": 0.5, "distance": 2.0, "seconds": 10.0, "samples_per_second": 3.0}


def test_times_are_not_judged_and_a_tolerance_is_relative():
    found = judged(THEN, {"accuracy": 0.5, "distance": 2.02, "seconds": 30.0, "new": 1.0}, 0.02)
    assert {name: figure.verdict for name, figure in found.items()} == {
        "accuracy": "equal",
        "distance": "within",
        "new": "new",
    }
    assert judged(THEN, {**THEN, "distance": 2.05}, 0.02)["distance"].verdict == "differs"
    assert judged({"gap": 0.0}, {"gap": 1e-7}, 1e-6)["gap"].verdict == "within"


@pytest.mark.parametrize(
    ("now", "data", "verdict"),
    [
        (THEN, (), "reproduced: of 2 figures 2 are equal to the last bit"),
        (
            {**THEN, "distance": 2.001},
            (),
            "reproduced: of 2 figures 1 are equal to the last bit, 1 within 0.01",
        ),
        ({**THEN, "distance": 3.0}, (), "not reproduced within 0.01: distance"),
        ({"accuracy": 0.5}, (), "not reproduced within 0.01: distance"),
        (THEN, ("train",), "not reproduced: other images in train"),
    ],
    ids=["equal", "within", "differs", "missing", "data"],
)
def test_the_verdict_is_one_line(now, data, verdict):
    found = Reproduction(0.01, judged(THEN, now, 0.01), data)
    assert found.verdict == verdict
    assert found.reproduced == verdict.startswith("reproduced")


def test_a_run_without_figures_is_not_reproduced():
    assert not Reproduction(0.01, {}).reproduced


def test_what_differs_around_it_is_told():
    then = {"atjem.python": "3.11.1", "atjem.machine": "a", "libraries": {"ray": "1", "torch": "2", "x": "1"}}
    now = {"atjem.python": "3.11.1", "atjem.machine": "b", "libraries": {"ray": "1", "torch": "3"}}
    assert list(other_circumstances(then, now)) == [
        "machine a then, b now",
        "torch 2 then, 3 now",
        "x 1 then, none now",
    ]


def test_json_is_plain():
    found = Reproduction(0.01, judged(THEN, THEN, 0.01))
    assert json.loads(json.dumps(found.as_object()))["figures"]["accuracy"] == {
        "then": 0.5,
        "now": 0.5,
        "verdict": "equal",
    }
