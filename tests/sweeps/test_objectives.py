"""Objectives: which metrics there are, and which a recipe will not have."""

import pytest

from pipelines.graph import build_graph
from pipelines.recipe import load_recipe
from sweeps.objectives import MEASURED, Objective, default_objectives, parse_objectives

DIGITS = load_recipe("digits")[0].settings


def test_one_and_several():
    objectives, problems = parse_objectives(["frechet_distance:min", "robust_accuracy:max"], DIGITS)
    assert problems == []
    assert [(o.metric, o.direction, o.node) for o in objectives] == [
        ("frechet_distance", "minimize", "evaluate_fidelity"),
        ("robust_accuracy", "maximize", "evaluate_classifier"),
    ]


def test_pgd_stands_for_autoattack_where_that_is_not_run():
    cheap = load_recipe("digits", ["evaluate.robust.attack=pgd"])[0].settings
    assert default_objectives(DIGITS) == ("frechet_distance:min", "robust_accuracy:max")
    assert default_objectives(cheap) == ("frechet_distance:min", "pgd_accuracy:max")
    robust = Objective("robust_accuracy", maximize=True)
    assert (robust.at_rungs("pgd"), robust.at_rungs("autoattack")) == ("pgd_accuracy", "robust_accuracy")
    assert Objective("frechet_distance", maximize=False).at_rungs("pgd") == "frechet_distance"


def test_every_node_that_measures_is_in_the_graph():
    assert MEASURED.keys() <= build_graph(DIGITS).keys()


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        ("frechet_distanc:min", [], "did you mean 'frechet_distance'?"),
        ("frechet_distance", [], "write frechet_distance:min or frechet_distance:max"),
        ("frechet_distance:less", [], "write frechet_distance:min"),
        ("fid:min", [], "use frechet_distance"),
        ("robust_accuracy:max", ["evaluate.robust.attack=pgd"], "use pgd_accuracy"),
    ],
)
def test_what_a_recipe_will_not_have_is_refused(text, overrides, said):
    settings = load_recipe("digits", overrides)[0].settings
    objectives, [problem] = parse_objectives([text], settings)
    assert objectives == ()
    assert said in str(problem)
