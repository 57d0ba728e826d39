"""The graph as a table, as a picture and as JSON."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pipelines.graph import build_graph
from pipelines.recipe import load_recipe, shipped_recipes
from tests.support.running import ROOT, Result


@pytest.fixture
def dag(cli) -> Callable[..., Result]:
    return lambda *words: cli("dag", *words)


@pytest.mark.parametrize("name", shipped_recipes())
def test_each_recipe_has_its_nodes_in_order(dag, tmp_path, name):
    found = dag("--pipeline", name, "--workdir", str(tmp_path), "--json")
    assert found.code == 0, found.err
    nodes = found.json["nodes"]
    assert [node["name"] for node in nodes] == list(build_graph(load_recipe(name)[0].settings))
    seen: set[str] = set()
    for node in nodes:
        assert set(node["needs"].values()) <= seen
        seen.add(node["name"])
        assert node["state"] == "not run"


def test_the_picture_has_a_box_for_each_node_and_no_line_behind_a_box(dag, tmp_path):
    out = tmp_path / "dag.svg"
    found = dag("--pipeline", "digits", "--workdir", str(tmp_path), "--out", str(out))
    assert found.code == 0, found.err
    assert "train_stage2" in found.out
    graph = build_graph(load_recipe("digits")[0].settings)
    assert len(ElementTree.parse(out).getroot().findall("{http://www.w3.org/2000/svg}rect")) == len(graph)
    picture = out.read_text(encoding="utf-8")
    found = re.findall(r'<rect x="(\d+)" y="(\d+)" width="\d+" height="(\d+)"', picture)
    boxes = [tuple(map(int, box)) for box in found]
    lanes = [tuple(map(int, lane)) for lane in re.findall(r'd="M(\d+) (\d+) h', picture)]
    assert len(lanes) > 2
    assert not [lane for lane in lanes for x, y, high in boxes if lane[0] == x and y <= lane[1] <= y + high]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--pipeline", "digit"], "did you mean 'digits'?"),
        (["--pipeline", "digits", "--out", "dag.png"], "--out: 'dag.png'; must end with .svg"),
        (["--pipeline", "digits", "--out", "/nowhere/dag.svg"], "--out: /nowhere/dag.svg; cannot be written"),
        (["--pipeline", "digits", "--set", "stage2.steps=-1"], "stage2.steps"),
    ],
)
def test_bad_input_is_one_line(dag, tmp_path, words, named):
    assert named in dag(*words, "--workdir", str(tmp_path)).error


@pytest.mark.slow
def test_a_full_disk_is_one_line(tmp_path):
    command = [sys.executable, "-m", "pipelines", "dag", "--pipeline", "digits", "--workdir", str(tmp_path)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "error: [Errno 28] No space left on device\n")
