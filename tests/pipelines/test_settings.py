"""Every setting is read, and occurs in the code."""

import pytest

from pipelines.fingerprint import ROOT
from pipelines.graph import build_graph
from pipelines.recipe import load_recipe
from pipelines.settings import RUNTIME, flatten


def test_every_setting_is_read_by_a_stage_or_the_runner():
    settings = load_recipe("digits")[0].settings
    reads = {path for node in build_graph(settings).values() for path in node.reads}
    runner = {"evaluate.stage1"}
    unread = {
        name
        for name in flatten(settings)
        if name not in runner and not any(name == path or name.startswith(f"{path}.") for path in reads)
    }
    assert unread == set()
    assert flatten(settings).keys() >= RUNTIME


def test_every_setting_name_occurs_in_the_code():
    code = "".join(
        file.read_text()
        for package in ("pipelines", "atjem", "data")
        for file in (ROOT / package).rglob("*.py")
        if file.name != "settings.py"
    )
    names = {name.split(".")[-1] for name in flatten(load_recipe("digits")[0].settings)}
    names = {"in_" if name == "in" else name for name in names}
    assert {name for name in names if f".{name}" not in code} == set()


@pytest.mark.parametrize(
    ("gpus", "workers", "refused"), [("0.5", 1, False), ("0.5", 2, True), ("2", 8, False), ("0", 8, False)]
)
def test_several_workers_need_whole_gpus(gpus, workers, refused):
    sets = (f"compute.gpus_per_worker={gpus}", f"compute.num_workers={workers}")
    _, problems = load_recipe("digits", sets)
    assert [problem.where for problem in problems] == ["compute.gpus_per_worker"] * refused
    assert all("must be a whole number with several workers" in str(problem) for problem in problems)
