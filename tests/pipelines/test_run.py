"""The script `pipelines/run.py`: `--plan` of every shipped recipe, without data and without torch."""

import json

import pytest

from pipelines.graph import STAGES
from pipelines.recipe import shipped_recipes
from tests.support.running import run_python

PLAN_ALL = """
import runpy, sys
workdir, *names = sys.argv[1:]
for name in names:
    sys.argv = ["run.py", "--pipeline", name, "--plan", "--json", "--workdir", workdir]
    try:
        runpy.run_path("pipelines/run.py", run_name="__main__")
    except SystemExit as end:
        assert not end.code, end.code
print(sorted({"torch", "ray", "mlflow"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_plan_needs_no_data_and_no_torch(tmp_path):
    names = shipped_recipes()
    done = run_python("-c", PLAN_ALL, str(tmp_path), *names)
    assert done.code == 0, done.err
    *plans, imported = [line for line in done.out.splitlines() if line.startswith(("{", "["))]
    assert imported == "[]"
    assert list(tmp_path.iterdir()) == []
    for name, plan in zip(names, map(json.loads, plans), strict=True):
        stages = plan["stages"]
        assert [stage["name"] for stage in stages] == list(STAGES)
        assert {stage["status"] for stage in stages} == {"run"}
        if name != "digits":
            assert {stage["fingerprint"] for stage in stages} == {None}
            assert "does not exist; " in stages[0]["reason"]
