"""The paper's recipes: their settings as published, their plan without data, what they say is missing."""

from pathlib import Path

import pytest
import yaml

from atjem.models.names import known_arch
from pipelines.recipe import RECIPES, load_recipe
from pipelines.settings import flatten

PUBLISHED = yaml.safe_load(Path(__file__).with_name("published_settings.yaml").read_text())["recipes"]


def test_the_papers_figures_are_not_set_beside_those_of_other_images():
    assert load_recipe("cifar10", ["data.root=elsewhere"])[0].settings.published is not None
    assert load_recipe("cifar10", ["data.in=IMAGES"])[0].settings.published is None


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_the_papers_and_the_header_tells_its_use_and_source(name):
    recipe, problems = load_recipe(name)
    settings = flatten(recipe.settings)
    assert problems == []
    assert {key: settings[key] for key in PUBLISHED[name]} == PUBLISHED[name]
    assert known_arch(recipe.settings.model.arch)
    steps = recipe.settings.sample.steps
    assert recipe.settings.sample.step_candidates == tuple(range(steps - 3, steps + 4))
    header = (RECIPES / f"{name}.yaml").read_text().split("\nseed:")[0]
    for word in ("command", "try first", "hardware", "hours", "expected", "source"):
        assert f"# {word}" in header
    assert f"--pipeline {name} " in header
    assert "2510.13872" in header
    shown = recipe.settings.published.metrics
    assert str(shown["fid"]) in header
    assert str(shown["is_mean"]) in header


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_missing_is_told_with_where_to_get_it(name, cli, tmp_path):
    result = cli("--pipeline", name, "--workdir", str(tmp_path), "--set", f"data.root={tmp_path}")
    assert result.code == 2
    told = {line.removeprefix("error: ").split(":")[0]: line for line in result.errors}
    assert "http" in told["data.in"]
    assert str(tmp_path) in told["data.in"]
    assert "http" in told["data.ood"]
    assert ("model.checkpoint" in told) == name.startswith("imagenet")
    if "model.checkpoint" in told:
        assert "get it from https://" in told["model.checkpoint"]
