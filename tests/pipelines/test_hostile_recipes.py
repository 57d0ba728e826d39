"""Recipes and spaces from elsewhere: refused in one line, whatever they would run, fill or lead to."""

import pytest
from jinja2 import Environment

from pipelines.files import read_json
from pipelines.graph_picture import draw_graph
from pipelines.problems import BadInput, Problem
from pipelines.recipe import RECIPES, load_recipe
from pipelines.stages.report_page import PAGE
from pipelines.terminal import Terminal
from pipelines.tracking.tracker import Tracker
from pipelines.workdir.store import Store
from tests.support.hostile import Answer, ask_each
from tests.support.mlflow_server import empty_database

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
    (tmp_path / name).write_text(DIGITS)
    with pytest.raises(BadInput, match="rename the file") as caught:
        load_recipe(str(tmp_path / name))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["my recipe (1)", "größe 2,5", "a+b=c@d", "-x"])
def test_recipe_names_are_experiments_within_the_workdir(tmp_path, name):
    (tmp_path / f"{name}.yaml").write_text(DIGITS)
    recipe, _ = load_recipe(str(tmp_path / f"{name}.yaml"))
    (tmp_path / "mlflow.db").write_bytes(empty_database())
    tracker = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", recipe.name, tmp_path / "mlartifacts")
    run = tracker.open_parent("abc", name, {}, {})
    tracker.client.log_text(run, "text", "a.txt")
    assert (tmp_path / "mlartifacts" / name / run / "artifacts" / "a.txt").read_text() == "text"


def test_deep_manifest_is_none(tmp_path):
    folder = tmp_path / "artifacts" / "sample" / "abc"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("[" * 100_000)
    assert read_json(folder / "manifest.json") is None
    assert Store(tmp_path).manifest("sample", "abc") is None


def test_long_values_are_cut_after_secrets_are_hidden():
    line = str(Problem("data.in", "s3://user:" + "planted" * 1000 + "@bucket " + "x" * 5000, "give less"))
    assert "planted" not in line
    assert len(line) < 1200


@pytest.mark.parametrize("live", [False, True], ids=["lines", "terminal"])
def test_names_do_not_act_on_a_terminal(monkeypatch, capsys, live):
    if live:
        monkeypatch.setenv("FORCE_COLOR", "1")
    terminal = Terminal()
    assert terminal.live == live
    named = "\x1b]0;title\x07 [/bold] :smile: \x9b2J \u202etxt"
    terminal.rejected([{"source": named, "reason": named}])
    terminal.rows(("stage", "status", "why"), [("sample", "failed", named)])
    out = capsys.readouterr().out
    assert out.count("\\x1b]0;title\\x07 [/bold] :smile: \\x9b2J \\u202etxt") == 3
    assert "\x1b]" not in out
    assert not any(sign in out for sign in "\x07\x9b\u202e")


def test_an_mlflow_tag_and_a_param_of_a_megabyte(tmp_path):
    """Cut to what every store takes."""
    (tmp_path / "mlflow.db").write_bytes(empty_database())
    tracker = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "recipe", tmp_path / "mlartifacts")
    huge = "x" * (1 << 20)
    run = tracker.open_parent("abc", "title", {"data.in": huge}, {"atjem.workdir": huge})
    tracker.tag(run, {"atjem.reason": huge})
    data = tracker.client.get_run(run).data
    lengths = {len(data.params["data.in"]), len(data.tags["atjem.reason"]), len(data.tags["atjem.workdir"])}
    assert lengths == {5000}


SCRIPT = """"'><script>alert(1)</script><img src=x onerror='alert(2)'>"""


class Hostile(dict):
    """Whatever is asked of it, it is a script, or a list of one."""

    def __missing__(self, name: str) -> str:
        return SCRIPT


def test_a_report_shows_markup_as_text():
    one, pair = [Hostile()], [(SCRIPT, SCRIPT)]
    rows = dict.fromkeys(("cards", "pictures", "metrics", "counterfactuals", "charts", "stages"), one)
    pairs = dict.fromkeys(("absent", "of_data", "lineage", "settings"), pair)
    html = (
        Environment(autoescape=True)
        .from_string(PAGE)
        .render(
            **rows,
            **pairs,
            **dict.fromkeys(("title", "subtitle", "published"), SCRIPT),
            **{name: [SCRIPT] for name in ("warnings", "models")},
            gates=[{"model": SCRIPT, "curve": SCRIPT, "checks": one}],
            protocols=[(SCRIPT, pair)],
            graph=draw_graph({SCRIPT: []}, {SCRIPT: SCRIPT}),
        )
    )
    assert html.count("alert(1)") > 30
    assert "<script" not in html
    assert "<img src=x" not in html
    assert "'alert(2)'" not in html
