"""The space: what a YAML file may say, and every problem found before the first trial."""

import datetime

import optuna
import pytest
import yaml

from pipelines.problems import BadInput
from pipelines.recipe import load_recipe, shipped_recipes
from pipelines.settings import flatten
from sweeps.cli import SPACE
from sweeps.space import Space, incomparable, parse_space

RECIPE, _ = load_recipe("digits")
SETTINGS = RECIPE.settings


def _parse(settings: dict, **more: object) -> tuple[Space, list[str]]:
    text = yaml.safe_dump({"settings": settings, **more})
    space, problems = parse_space(text, "my.yaml", "digits", (), SETTINGS)
    return space, [str(problem) for problem in problems]


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


def test_multiples_of_the_recipes_own_value_keep_its_type():
    space, problems = _parse(
        {
            "stage2.contrastive.max_steps": {"times": [0.5, 2]},
            "stage2.contrastive.step_size": {"times": [0.5, 2], "log": True},
        }
    )
    steps, size = (parameter.distribution for parameter in space.parameters)
    assert problems == []
    assert isinstance(steps, optuna.distributions.IntDistribution)
    assert (steps.low, steps.high) == (20, 80)
    assert isinstance(size, optuna.distributions.FloatDistribution)
    assert (size.low, size.high, size.log) == (0.15, 0.6, True)


@pytest.mark.parametrize(
    ("name", "form", "said"),
    [
        (
            "stage2.contrastive.step_siz",
            {"low": 0.1, "high": 1},
            "did you mean 'stage2.contrastive.step_size'",
        ),
        ("stage2.optimizer", {"low": 0.1, "high": 1}, "name one of them, as stage2.optimizer.name"),
        ("stage2.contrastive.step_size", 0.3, "write {low: , high: }"),
        ("stage2.contrastive.step_size", {"low": 0.1, "high": 1, "logg": True}, "'logg' is unknown"),
        ("stage2.contrastive.step_size", {"low": 0.1}, "low and high must be numbers"),
        ("stage2.contrastive.step_size", {"low": 1, "high": 0.1}, "low 1 must be below high 0.1"),
        ("stage2.contrastive.step_size", {"low": 0, "high": 1, "log": True}, "log needs a low above 0"),
        ("stage2.contrastive.step_size", {"low": 0.1, "high": 1, "log": 3}, "log must be true or false"),
        (
            "stage2.contrastive.step_size",
            {"low": 0.1, "high": 1, "step": -1},
            "step must be a number above 0",
        ),
        ("stage2.contrastive.step_size", {"low": 0.5, "high": 1}, "leaves out the recipe's own 0.3"),
        ("stage2.contrastive.step_size", {"low": -1, "high": 1}, "greater than 0"),
        ("stage2.contrastive.max_steps", {"low": 5, "high": 50}, "at least start_steps=10"),
        ("stage2.contrastive.step_size", {"times": 3}, "two factors"),
        ("stage2.loss.r1_weight", {"times": [0.5, 2]}, "the recipe's own value is 0"),
        ("stage2.objective", {"low": 0, "high": 1}, "is no number; use {choices: [...]}"),
        ("stage2.objective", {"choices": ["dat"]}, "two or more"),
        ("stage2.objective", {"choices": ["dat", datetime.date(2020, 1, 1)]}, "must be words, numbers"),
        ("stage2.objective", {"choices": ["dat", [datetime.date(2020, 1, 1)]]}, "must be words, numbers"),
        ("stage2.contrastive.max_steps", {"times": [1, 1.0e308]}, "two factors"),
        ("stage2.loss.energy_weight", {"low": 0.1, "high": 2, "step": 1e-320}, "step"),
        ("stage2.objective", {"choices": ["at", "jem"]}, "leave out the recipe's own 'dat'"),
        ("stage2.objective", {"choices": ["dat", "dot"]}, "must be 'dat', 'at' or 'jem'"),
        ("stage2.objective", {"choices": ["dat", "dat"]}, "must differ"),
        ("seed", {"choices": [0, 1]}, "--seeds K"),
        ("stage2.until", {"choices": [100, 200]}, "rungs"),
        ("compute.num_workers", {"low": 1, "high": 2}, "cannot change a result"),
        ("stage2.contrastive.max_steps", {"low": 39.5, "high": 40.5}, "holds no two whole numbers"),
        (
            "stage2.contrastive.max_steps",
            {"low": 20, "high": 60, "step": 15},
            "must lead from 20 to 60",
        ),
        ("stage2.contrastive.max_steps", {"low": 20, "high": 60, "step": 0.5}, "step must be a whole number"),
        ("stage2.loss.energy_weight", {"low": 0.1, "high": 1.3, "step": 0.4}, "and to the recipe's own 1"),
        ("stage2.loss.energy_weight", {"low": 0.1, "high": float("inf")}, "low and high must be numbers"),
        ("stage2.optimizer.clip_norm", {"low": 0.1, "high": 1}, "use {choices: [...]}"),
        ("stage2.optimizer.clip_norm", {"choices": [0.1, 1.0]}, "leave out the recipe's own None"),
        ("data.paired_views", {"choices": [0, 1]}, "leave out the recipe's own False"),
        (
            "stage2.optimizer.lr",
            {"low": 0.001, "high": 1, "when": {"stage2.objective": "at"}},
            "never searched",
        ),
        ("stage2.optimizer.lr", {"low": 0.001, "high": 1, "when": 3}, "when must name one setting"),
        ("stage2.optimizer.lr", {"low": 0.001, "high": 1, "when": {"a.b": 3}}, "there is no setting 'a.b'"),
    ],
)
def test_each_problem_is_one_line_that_names_the_setting(name, form, said):
    _, problems = _parse({name: form})
    assert len([line for line in problems if said in line]) >= 1, problems
    assert all(name.split(".")[-1][:4] in line and "\n" not in line for line in problems)


def test_every_problem_is_found_at_once():
    _, problems = _parse(
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


def test_conditional_settings_are_there_only_when_their_condition_holds():
    space, problems = _parse(
        {
            "stage2.objective": {"choices": ["dat", "at"]},
            "stage2.contrastive.step_size": {"times": [0.5, 2], "when": {"stage2.objective": "dat"}},
        }
    )
    assert problems == []
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    chosen = [space.suggest(study.ask(), SETTINGS) for _ in range(12)]
    assert {values["stage2.objective"] for values in chosen} == {"dat", "at"}
    for values in chosen:
        assert ("stage2.contrastive.step_size" in values) == (values["stage2.objective"] == "dat")


def test_powers_of_ten_are_numbers():
    text = """
settings:
  stage2.optimizer.lr: {low: 1e-3, high: 1e-1, log: true}
  stage1.optimizer.lr: {choices: [1e-1, 1e-2]}
"""
    space, problems = parse_space(text, "my.yaml", "digits", (), SETTINGS)
    assert problems == []
    assert [parameter.extremes for parameter in space.parameters] == [[0.001, 0.1], [0.1, 0.01]]


@pytest.mark.parametrize(
    ("when", "said"),
    [({"stage2.objective": "jem"}, "is never 'jem'"), ({"stage2.loss.r1_weight": 1.0}, "needs choices")],
)
def test_a_condition_that_never_holds_is_refused(when, said):
    _, [problem] = _parse(
        {
            "stage2.objective": {"choices": ["dat", "at"]},
            "stage2.loss.r1_weight": {"low": 0.0, "high": 1.0},
            "stage2.loss.energy_weight": {"times": [0.5, 2], "when": when},
        }
    )
    assert said in problem
    assert "stage2.loss.energy_weight" in problem


def test_conditions_that_go_round_are_refused():
    _, problems = _parse(
        {
            "stage2.objective": {"choices": ["dat", "at"], "when": {"stage2.select": "last"}},
            "stage2.select": {"choices": ["last", "best_frechet"], "when": {"stage2.objective": "dat"}},
        }
    )
    assert [line for line in problems if "depends on itself" in line] == problems
    assert len(problems) == 2


def test_lists_are_choices_that_the_recipe_takes():
    space, problems = _parse({"sample.step_candidates": {"choices": [[10, 20], list(_candidates())]}})
    assert problems == []
    assert space.own(SETTINGS) == {"sample.step_candidates": str(list(_candidates()))}


def test_names_are_told_as_short_as_they_stay_distinct():
    space, _ = _parse(
        {"stage2.contrastive.step_size": {"times": [1, 2]}, "sample.step_size": {"times": [1, 2]}}
    )
    values = {"stage2.contrastive.step_size": 0.123456, "sample.step_size": 1.0}
    assert space.told(values) == "contrastive.step_size=0.1235  sample.step_size=1"


def test_settings_that_change_the_measuring_are_told_of():
    space, _ = _parse(
        {"sample.num_samples": {"low": 1000, "high": 3000}, "sample.step_size": {"times": [1, 2]}}
    )
    assert incomparable(space) == ["sample.num_samples"]


def test_rungs_are_shares_of_training_with_cheaper_looks():
    space, problems = _parse(
        {"sample.step_size": {"times": [1, 2]}},
        rungs={"first": 0.125, "factor": 2, "settings": {"sample.num_samples": {"times": 0.25}}},
    )
    assert problems == []
    assert space.rungs is not None
    assert space.rungs.steps(800) == (100, 200, 400)
    assert space.rungs.steps(2) == (1,)
    assert space.rungs.steps(1) == ()
    assert space.rungs.settings == ("sample.num_samples=500",)


@pytest.mark.parametrize(
    ("cheaper", "said"),
    [
        ({"stage2.batch_size": 32}, "measured, not its training"),
        ({"seed": 7}, "measured, not its training"),
        ({"sample.num_samples": None}, "sample.num_samples"),
        ({"sample.num_samples": {"times": float("inf")}}, "sample.num_samples"),
    ],
)
def test_looks_change_the_measuring_alone(cheaper, said):
    _, problems = _parse({"sample.step_size": {"times": [1, 2]}}, rungs={"settings": cheaper})
    assert any(said in line for line in problems)


def test_lengths_are_not_searched_beside_rungs():
    _, [problem] = _parse({"stage2.steps": {"times": [0.5, 1]}}, rungs={"first": 0.125})
    assert "trials of other lengths do not compare at rungs" in problem


def _candidates() -> tuple[int, ...]:
    return tuple(flatten(SETTINGS)["sample.step_candidates"])
