"""The pages of docs/ build without a warning, and show what the code has."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.settings import Settings
from tests.support.readme import COMMANDS
from tests.support.running import ROOT


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pages")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    done = subprocess.run([*command, str(ROOT / "docs"), str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_every_setting_has_its_line(pages):
    text = (pages / "recipes.html").read_text(encoding="utf-8")
    sections = [
        name for name, field in Settings.model_fields.items() if hasattr(field.annotation, "model_fields")
    ]
    assert len(sections) > 4
    for name in ("seed", "data.in", "stage2.contrastive.step_size", "evaluate.robust.eps"):
        assert f">{name}</span>" in text
    cells = [
        re.findall(r"<td>(.*?)</td>", row, re.DOTALL) for row in re.findall(r"<tr.*?</tr>", text, re.DOTALL)
    ]
    assert len(cells) > 120
    assert [row[0] for row in cells if not all(re.sub("<[^>]+>", "", cell).strip() for cell in row)] == []


@pytest.mark.slow
def test_docstrings_are_there(pages):
    text = (pages / "api.html").read_text(encoding="utf-8")
    for told in ("Projected gradient ascent", "Energy of each image under the model"):
        assert told in text


@pytest.mark.slow
def test_every_page_is_reached_from_the_first(pages):
    index = (pages / "index.html").read_text(encoding="utf-8")
    written = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert {name for name in written if f'href="{name}.html"' in index} == written


# Commands of the pages that README.md does not have, and the test that runs them.
_RUN = "python pipelines/run.py --pipeline"
_START = f"{_RUN} imagenet256 --set model.checkpoint=FILE"
ELSEWHERE = {
    "python -m pipelines dag --pipeline imagenet256": "tests/pipelines/commands/test_dag.py",
    f"{_RUN} digits": "tests/pipelines/test_results.py",
    _START: "tests/pipelines/test_published_recipes.py",
    f"{_START} --set stage2.steps=0": "tests/pipelines/stages/test_training_loop.py",
}


def _commands(page: Path) -> list[str]:
    blocks = re.findall(
        r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(line.partition("#")[0].split()) for line in lines if line.strip()]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_each_command_is_run_by_a_test(page):
    unknown = [command for command in _commands(page) if command not in {*COMMANDS, *ELSEWHERE}]
    assert unknown == []


@pytest.mark.parametrize("file", sorted(set(ELSEWHERE.values())))
def test_the_tests_exist(file):
    assert (ROOT / file).is_file()
