"""Hostile recipes and search spaces are refused with one line."""

import pytest

from pipelines.recipe import RECIPES, load_recipe
from tests.support.hostile import Answer, ask_each

ASK_RECIPE = """
from pipelines.recipe import load_recipe

def ask(words):
    recipe, problems = load_recipe(words[0], words[1:])
    return f"{recipe.name}: " + "; ".join(map(str, problems))
"""
ASK_SPACE = """
from pipelines.recipe import load_recipe
from sweeps.space import parse_space, read_text
from pathlib import Path

def ask(words):
    text = read_text(Path(words[0]), "--space")
    return parse_space(text, "space", "digits", (), load_recipe("digits")[0].settings)
"""
DIGITS = (RECIPES / "digits.yaml").read_text()
NINE = ",".join(["*a{}"] * 9)
LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{NINE.replace('{}', str(n - 1))}]\n" for n in range(1, 10))
MERGES = "a0: &a0 {k: 1}\n" + "".join(
    f"a{n}: &a{n}\n  <<: [{NINE.replace('{}', str(n - 1))}]\n" for n in range(1, 9)
)
TEXTS = {
    "a call": (
        "x: !!python/object/apply:os.mkdir [{mark}]\n",
        "determine a constructor for the tag",
    ),
    "a module": ("x: !!python/module:antigravity\n", "determine a constructor for the tag"),
    "billions of laughs": (LAUGHS, "more than 10 aliases"),
    "merges of merges": (MERGES, "more than 10 aliases"),
    "a mapping of itself": ("x: &a {b: *a}\n", "more than 10,000 values"),
    "a list of itself": ("x: &a [*a]\n", "more than 10,000 values"),
    "ten thousand values": (f"x: [{'1,' * 10_000}]\n", "more than 10,000 values"),
    "brackets": (f"x: {'[' * 20_000}\n", "recursion"),
    "a number of a hundred thousand digits": (f"x: 0x{'f' * 100_000}\n", "a number of 400000 bits"),
    "a number in base sixty": (f"x: {':'.join(['1'] * 20_000)}\n", "a number of"),
    "megabytes": (f"x: {'y' * (60 << 20)}\n", "1,048,576 are allowed"),
    "a name for the terminal": ('"\\e]0;x\\a\\u202e": 1\n', "error: \\x1b]0;x\\x07\\u202e: unknown setting"),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    folder = tmp_path_factory.mktemp("recipes")
    mark, files = folder / "ran", {}
    for number, (name, (text, _)) in enumerate(TEXTS.items()):
        path = folder / f"{number}.yaml"
        path.write_text(DIGITS + text.replace("{mark}", str(mark)))
        files[name] = [str(path)]
    found = ask_each(ASK_RECIPE, files)
    spaces = {f"space: {name}": words for name, words in files.items() if "terminal" not in name}
    found |= ask_each(ASK_SPACE, spaces)
    assert not mark.exists()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTS)
def test_recipe_is_refused(answers, name):
    assert TEXTS[name][1] in answers[name].said
    assert "\n" not in answers[name].said
    assert answers[name].megabytes < 300


@pytest.mark.parametrize("name", [name for name in TEXTS if "terminal" not in name])
def test_space_is_refused(answers, name):
    answer = answers[f"space: {name}"]
    assert answer.said.startswith("BadInput: error: space: not readable as YAML: ")
    assert TEXTS[name][1] in answer.said
    assert answer.megabytes < 300


def test_a_few_aliases_are_read(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(DIGITS.replace("seed: 0", "seed: &seed 7", 1).replace("data:", "data:\n  seed: *seed", 1))
    recipe, problems = load_recipe(str(path))
    assert problems == []
    assert (recipe.settings.seed, recipe.settings.data.seed) == (7, 7)
