"""Rungs: shares of training, and cheaper evaluations there."""

import pytest

from tests.support.spaces import parse

ANY = {"sample.step_size": {"times": [1, 2]}}


def test_rungs_are_shares_of_training_with_cheaper_evaluations():
    cheaper = {"sample.num_samples": {"times": 0.25}}
    space, problems = parse(ANY, rungs={"first": 0.125, "factor": 2, "settings": cheaper})
    assert problems == []
    assert space.rungs.steps(800) == (100, 200, 400)
    assert space.rungs.steps(2) == (1,)
    assert space.rungs.steps(1) == ()
    assert space.rungs.settings == ("sample.num_samples=500",)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"stage2.batch_size": 32}, "measured, not its training"),
        ({"seed": 7}, "measured, not its training"),
        ({"sample.num_samples": None}, "sample.num_samples"),
        ({"sample.num_samples": {"times": float("inf")}}, "sample.num_samples"),
        (3, "must be settings with their values"),
    ],
)
def test_evaluations_at_rungs_change_the_measuring_alone(settings, said):
    _, problems = parse(ANY, rungs={"settings": settings})
    assert any(said in line for line in problems)


def test_lengths_are_not_searched_beside_rungs():
    _, [problem] = parse({"stage2.steps": {"times": [0.5, 1]}}, rungs={"first": 0.125})
    assert "trials of other lengths do not compare at rungs" in problem
