"""The space: what a YAML file may say, and every problem found before the first trial."""

import optuna
import pytest

from pipelines.problems import BadInput
from pipelines.recipe import load_recipe, shipped_recipes
from sweeps.cli import SPACE
from sweeps.space import incomparable, parse_space
from tests.support.spaces import SETTINGS, parse

SIZE, OBJECTIVE = "stage2.contrastive.step_size", "stage2.objective"
TWICE = {"times": [1, 2]}


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_shipped_space_fits_every_recipe(recipe):
    settings = load_recipe(recipe)[0].settings
    space, problems = parse_space(SPACE.read_text(), "pgd.yaml", recipe, (), settings)
    assert problems == []
    assert {parameter.name for parameter in space.parameters} == {
        "stage2.contrastive.step_size",
        "stage2.contrastive.max_steps",
        "stage2.contrastive.auc_threshold",
        "stage2.loss.energy_weight",
        "stage2.loss.classifier_weight",
        "stage2.optimizer.lr",
        "sample.step_size",
    }
    assert space.rungs is not None


def test_every_problem_is_found_at_once():
    _, problems = parse(
        {"seed": {"choices": [0, 1]}, "stage2.loss.r1_weight": {"times": [1, 2]}},
        rung=3,
        rungs={"first": 2, "factor": 1, "settings": {"sample.num_sample": 3}},
    )
    assert len(problems) == 6


@pytest.mark.parametrize(
    "text", ["", "settings:", "settings: 3", "- a", "settings: {}", "a: [", "settings: {a: }}"]
)
def test_what_is_no_space_is_refused(text):
    with pytest.raises(BadInput, match=r"my\.yaml"):
        parse_space(text, "my.yaml", "digits", (), SETTINGS)


def test_powers_of_ten_are_numbers():
    text = """
settings:
  stage2.optimizer.lr: {low: 1e-3, high: 1e-1, log: true}
  stage1.optimizer.lr: {choices: [1e-1, 1e-2]}
"""
    space, problems = parse_space(text, "my.yaml", "digits", (), SETTINGS)
    assert problems == []
    assert [parameter.extremes for parameter in space.parameters] == [[0.001, 0.1], [0.1, 0.01]]


def test_conditional_settings_are_there_only_when_their_condition_holds():
    space, problems = parse(
        {OBJECTIVE: {"choices": ["dat", "at"]}, SIZE: {"times": [0.5, 2], "when": {OBJECTIVE: "dat"}}}
    )
    assert problems == []
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    chosen = [space.suggest(study.ask(), SETTINGS) for _ in range(12)]
    assert {values[OBJECTIVE] for values in chosen} == {"dat", "at"}
    for values in chosen:
        assert (SIZE in values) == (values[OBJECTIVE] == "dat")


@pytest.mark.parametrize(
    ("when", "said"),
    [({OBJECTIVE: "jem"}, "is never 'jem'"), ({"stage2.loss.r1_weight": 1.0}, "needs choices")],
)
def test_a_condition_that_never_holds_is_refused(when, said):
    _, [problem] = parse(
        {
            OBJECTIVE: {"choices": ["dat", "at"]},
            "stage2.loss.r1_weight": {"low": 0.0, "high": 1.0},
            "stage2.loss.energy_weight": {"times": [0.5, 2], "when": when},
        }
    )
    assert said in problem
    assert "stage2.loss.energy_weight" in problem


def test_conditions_that_go_round_are_refused():
    _, problems = parse(
        {
            OBJECTIVE: {"choices": ["dat", "at"], "when": {"stage2.select": "last"}},
            "stage2.select": {"choices": ["last", "best_frechet"], "when": {OBJECTIVE: "dat"}},
        }
    )
    assert [line for line in problems if "depends on itself" in line] == problems
    assert len(problems) == 2


def test_names_are_told_as_short_as_they_stay_distinct():
    space, _ = parse({SIZE: TWICE, "sample.step_size": TWICE})
    values = {SIZE: 0.123456, "sample.step_size": 1.0}
    assert space.told(values) == "contrastive.step_size=0.1235  sample.step_size=1"


def test_settings_that_change_the_measuring_are_told_of():
    space, _ = parse({"sample.num_samples": {"low": 1000, "high": 3000}, "sample.step_size": TWICE})
    assert incomparable(space) == ["sample.num_samples"]
