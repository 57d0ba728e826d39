"""Recipes: values, overrides, and what is said of bad ones."""

import pytest

from pipelines.problems import BadInput
from pipelines.recipe import RECIPES, load_recipe, shipped_recipes


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipe_is_sound_and_has_a_header(name):
    recipe, problems = load_recipe(name)
    assert problems == []
    assert recipe.name == name
    header = (RECIPES / f"{name}.yaml").read_text().split("\nseed:")[0]
    assert all(f"# {word}" in header for word in ("command", "hardware", "source"))


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("stage1.optimizer.lr=5e-4", lambda s: s.stage1.optimizer.lr, 5e-4),
        ("stage1.optimizer.lr=.5", lambda s: s.stage1.optimizer.lr, 0.5),
        ("sample.step_candidates=[3, 4]", lambda s: s.sample.step_candidates, (3, 4)),
        ("sample.step_candidates=[]", lambda s: s.sample.step_candidates, ()),
        ("data.in=a=b", lambda s: s.data.in_, "a=b"),
        ("evaluate.stage1=no", lambda s: s.evaluate.stage1, False),
        ("stage2.optimizer.clip_norm=1", lambda s: s.stage2.optimizer.clip_norm, 1.0),
        (" seed =7", lambda s: s.seed, 7),
    ],
)
def test_override(override, read, value):
    recipe, problems = load_recipe("digits", [override])
    assert problems == []
    assert read(recipe.settings) == value


def test_later_override_wins():
    assert load_recipe("digits", ["seed=1", "seed=2"])[0].settings.seed == 2


def test_bad_override_leaves_the_recipes_value_for_later_checks():
    recipe, problems = load_recipe("digits", ["stage1.optimizer.lr=-1", "seed=3", "model.ark=x"])
    assert {problem.where for problem in problems} == {"model.ark", "stage1.optimizer.lr"}
    assert recipe.settings.stage1.optimizer.lr == load_recipe("digits")[0].settings.stage1.optimizer.lr
    assert recipe.settings.seed == 3


def test_own_recipe_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text((RECIPES / "digits.yaml").read_text().replace("seed: 0", "seed: 11"))
    recipe, problems = load_recipe(str(path))
    assert (recipe.name, recipe.settings.seed, problems) == ("mine", 11, [])


def test_missing_settings_are_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 1\nmodel: {arch: wrn-10-1}\n")
    with pytest.raises(BadInput) as caught:
        load_recipe(str(path))
    where = {problem.where for problem in caught.value.problems}
    assert {"data", "stage1", "stage2", "sample", "evaluate"} <= where


OVERRIDES = {
    "laughs": ("published={a: &a [x,x], b: &b [*a,*a,*a,*a], c: [*b,*b,*b,*b,*b,*b,*b,*b]}", "published"),
    "a tag": ("seed=!!python/object/apply:os.getpid []", "seed"),
    "a section of sections": ("a" + ".a" * 5000 + "=1", "a.a"),
    "a value of megabytes": (f"model.arch={'x' * (2 << 20)}", "model.arch"),
    "a hundred thousand candidates": (f"sample.step_candidates=[{'1,' * 9000}]", "sample.step_candidates"),
    "a network of ten million layers": ("model.arch=wrn-10000000-1", "model.arch"),
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_override_is_refused(name):
    override, where = OVERRIDES[name]
    _, problems = load_recipe("digits", [override])
    assert problems
    assert all(problem.where.startswith(where) for problem in problems)
    assert all(len(str(problem)) < 3000 for problem in problems)


@pytest.mark.parametrize(
    "name", ["../pipelines/digits", "/etc/passwd", "a/b", "digits\0", "digits.yaml\0", "..", ""], ids=repr
)
def test_recipe_name_that_leads_away(name):
    with pytest.raises(BadInput) as caught:
        load_recipe(name)
    assert str(caught.value).startswith("error: --pipeline: ")


ODD_FILES = ["...yaml", ".hidden.yaml", "a\nb.yaml", "\x1b[2J.yaml", "a%2e%2e.yaml", "a#b.yaml", "a'b.yaml"]


@pytest.mark.parametrize("name", ODD_FILES, ids=repr)
def test_recipe_file_whose_name_is_no_experiments(tmp_path, name):
    (tmp_path / name).write_text((RECIPES / "digits.yaml").read_text())
    with pytest.raises(BadInput, match="rename the file") as caught:
        load_recipe(str(tmp_path / name))
    assert str(caught.value).isprintable()


def test_an_end_beyond_the_last_step_is_refused():
    _, [problem] = load_recipe("digits", ["stage2.until=801"])
    assert str(problem) == "error: stage2.until: 801; must be at most steps=800"
