"""Searches and sweeps over digits, in a study on disk that may be opened again."""

import pytest

from pipelines.interrupt import StopRequest
from pipelines.recipe import load_recipe
from pipelines.terminal import Terminal
from sweeps.objectives import Objective
from sweeps.search import Search
from sweeps.space import parse_space
from sweeps.sweep import Study, Sweep

RECIPE, _ = load_recipe("digits")
OBJECTIVES = Objective("frechet_distance", maximize=False), Objective("robust_accuracy", maximize=True)
TEXT = """
settings:
  stage2.contrastive.step_size: {times: [0.25, 4], log: true}
  stage2.contrastive.max_steps: {times: [0.5, 2]}
rungs: {first: 0.125, factor: 3, settings: {evaluate.robust.attack: pgd}}
"""


@pytest.fixture
def open_search(tmp_path):
    """Opens the study of a file, or makes it."""

    def opened(
        file="study.db", *, text=TEXT, objectives=OBJECTIVES, trials=4, identity="an identity", **settings
    ):
        space, problems = parse_space(text, "my.yaml", "digits", (), RECIPE.settings)
        assert not problems
        place = f"sqlite:///{tmp_path / file}", "digits-1", identity
        settings = {"sampler": "tpe"} | settings
        return Search(*place, space, objectives, RECIPE.settings, num_trials=trials, **settings)

    return opened


@pytest.fixture
def make(open_search):
    """A sweep, whose trials' results the test sends itself."""

    def made(*, text=TEXT, objectives=OBJECTIVES, trials=3, seeds=1):
        space, _ = parse_space(text, "my.yaml", "digits", (), RECIPE.settings)
        study = Study("digits", (), False, {}, RECIPE, space, objectives)
        search = open_search(text=text, objectives=objectives, trials=trials, looks=study.looks)
        return Sweep(study, search, Terminal(to_stderr=True), StopRequest(), seeds)

    return made
