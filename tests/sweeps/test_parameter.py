"""One entry of a space: what it may say, and every problem in one line."""

import datetime

import optuna
import pytest

from tests.support.spaces import SETTINGS, parse

SIZE, STEPS = "stage2.contrastive.step_size", "stage2.contrastive.max_steps"
WEIGHT, OBJECTIVE = "stage2.loss.energy_weight", "stage2.objective"
DAY = datetime.date(2020, 1, 1)


def between(low, high, **more):
    return {"low": low, "high": high, **more}


def choices(*values):
    return {"choices": list(values)}


def test_multiples_of_the_recipes_own_value_keep_its_type():
    space, problems = parse({STEPS: {"times": [0.5, 2]}, SIZE: {"times": [0.5, 2], "log": True}})
    steps, size = (parameter.distribution for parameter in space.parameters)
    assert problems == []
    assert isinstance(steps, optuna.distributions.IntDistribution)
    assert (steps.low, steps.high) == (20, 80)
    assert isinstance(size, optuna.distributions.FloatDistribution)
    assert (size.low, size.high, size.log) == (0.15, 0.6, True)


def test_lists_are_choices_that_the_recipe_takes():
    own = list(SETTINGS.sample.step_candidates)
    space, problems = parse({"sample.step_candidates": choices([10, 20], own)})
    assert problems == []
    assert space.own(SETTINGS) == {"sample.step_candidates": str(own)}


@pytest.mark.parametrize(
    ("name", "form", "said"),
    [
        ("stage2.contrastive.step_siz", between(0.1, 1), f"did you mean '{SIZE}'"),
        ("stage2.optimizer", between(0.1, 1), "name one of them, as stage2.optimizer.name"),
        (SIZE, 0.3, "write {low: , high: }"),
        (SIZE, between(0.1, 1, logg=True), "'logg' is unknown"),
        (SIZE, {"low": 0.1}, "low and high must be numbers"),
        (SIZE, between(1, 0.1), "low 1 must be below high 0.1"),
        (SIZE, between(0, 1, log=True), "log needs a low above 0"),
        (SIZE, between(0.1, 1, log=3), "log must be true or false"),
        (SIZE, between(0.1, 1, step=-1), "step must be a number above 0"),
        (SIZE, between(0.5, 1), "leaves out the recipe's own 0.3"),
        (SIZE, between(-1, 1), "greater than 0"),
        (SIZE, {"times": 3}, "two factors"),
        ("stage2.loss.r1_weight", {"times": [0.5, 2]}, "the recipe's own value is 0"),
        (STEPS, between(5, 50), "at least start_steps=10"),
        (STEPS, {"times": [1, 1.0e308]}, "two factors"),
        (STEPS, between(39.5, 40.5), "holds no two whole numbers"),
        (STEPS, between(20, 60, step=15), "must lead from 20 to 60"),
        (STEPS, between(20, 60, step=0.5), "step must be a whole number"),
        (WEIGHT, between(0.1, 2, step=1e-320), "step"),
        (WEIGHT, between(0.1, 1.3, step=0.4), "and to the recipe's own 1"),
        (WEIGHT, between(0.1, float("inf")), "low and high must be numbers"),
        (OBJECTIVE, between(0, 1), "is no number; use {choices: [...]}"),
        (OBJECTIVE, choices("dat"), "two or more"),
        (OBJECTIVE, choices("dat", DAY), "must be words, numbers"),
        (OBJECTIVE, choices("dat", [DAY]), "must be words, numbers"),
        (OBJECTIVE, choices("at", "jem"), "leave out the recipe's own 'dat'"),
        (OBJECTIVE, choices("dat", "dot"), "must be 'dat', 'at' or 'jem'"),
        (OBJECTIVE, choices("dat", "dat"), "must differ"),
        ("seed", choices(0, 1), "--seeds K"),
        ("stage2.until", choices(100, 200), "rungs"),
        ("compute.num_workers", between(1, 2), "cannot change a result"),
        ("stage2.optimizer.clip_norm", between(0.1, 1), "use {choices: [...]}"),
        ("stage2.optimizer.clip_norm", choices(0.1, 1.0), "leave out the recipe's own None"),
        ("data.paired_views", choices(0, 1), "leave out the recipe's own False"),
        ("stage2.optimizer.lr", between(0.001, 1, when={OBJECTIVE: "at"}), "never searched"),
        ("stage2.optimizer.lr", between(0.001, 1, when=3), "when must name one setting"),
        ("stage2.optimizer.lr", between(0.001, 1, when={"a.b": 3}), "there is no setting 'a.b'"),
    ],
)
def test_each_problem_is_one_line_that_names_the_setting(name, form, said):
    _, problems = parse({name: form})
    assert any(said in line for line in problems), problems
    assert all(name.split(".")[-1][:4] in line and "\n" not in line for line in problems)
