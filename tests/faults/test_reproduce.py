"""A run is reproduced by this checkout or by the code that made it, or refused."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.running import Result, commit_all, copy_project, reduced_arguments

CHANGED = "atjem/losses.py"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A checkout of the project with one uncommitted change."""
    folder = tmp_path_factory.mktemp("checkout") / "project"
    copy_project(folder, "atjem", "data", "pipelines")
    commit_all(folder)
    with (folder / CHANGED).open("a") as file:
        file.write("\n\nMORE = 1\n")
    return folder


def call(checkout: Path, *words: str) -> Result:
    command = [sys.executable, *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=checkout, timeout=800)
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(2400)
def test_a_run_comes_out_again_whatever_the_checkout_is_now(checkout, tmp_path):
    workdir = str(tmp_path / "runs")
    words = reduced_arguments(workdir, evaluate__stage1="false")
    made = call(checkout, "pipelines/run.py", *words, "--until", "evaluate_classifier")
    assert made.code == 0, made.err
    again = ("-m", "pipelines", "reproduce", made.json["run_id"][:8], "--workdir", workdir)
    found = call(checkout, *again)
    assert (found.code, found.json["reproduced"]) == (0, True), found.err
    assert {figure["verdict"] for figure in found.json["figures"].values()} == {"equal"}
    assert "robust_accuracy" in found.json["figures"] or "pgd_accuracy" in found.json["figures"]
    assert "by this checkout" in found.err

    (checkout / CHANGED).write_text("raise RuntimeError\n")
    found = call(checkout, *again, "--into", str(tmp_path / "elsewhere"))
    assert (found.code, found.json["reproduced"]) == (0, True), found.err
    assert (tmp_path / "elsewhere" / "code" / CHANGED).read_text().endswith("MORE = 1\n")

    (tmp_path / "elsewhere").rename(tmp_path / "away")
    (checkout / ".git").rename(checkout / "git")
    refused = call(checkout, *again, "--into", str(tmp_path / "third"))
    (line,) = refused.errors
    assert refused.code == 2
    assert f"made by other code than this checkout's ({CHANGED})" in line
