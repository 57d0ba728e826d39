"""What processes of a cluster import: a copy of the code that the plan was made of."""

from pathlib import Path

import pytest

from pipelines.compute import cluster
from pipelines.compute.cluster import _copy_code
from pipelines.fingerprint import PACKAGES, code_digests
from pipelines.problems import BadInput
from tests.support.running import copy_project

STAGE = "pipelines.stages.train_stage1"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "project"
    copy_project(folder, *PACKAGES)
    monkeypatch.setattr(cluster, "ROOT", folder)
    return folder


def test_copy_is_the_code_with_bytecode_and_nothing_else(project, tmp_path):
    """Not a data set that lies in data/, nor an editor's link to nowhere."""
    (project / "data" / "images.tar").write_bytes(b"large")
    (project / "pipelines" / ".#runner.py").symlink_to("me@host.123")
    (project / "pipelines" / "gone.py").symlink_to("nowhere.py")
    _copy_code(PACKAGES, tmp_path / "copy", code_digests(STAGE, project))
    files = [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".py", ".yaml", ".pyc"}
    assert not [path for path in files if path.name in (".#runner.py", "gone.py")]
    assert code_digests(STAGE, tmp_path / "copy") == code_digests(STAGE, project)
    (compiled,) = (tmp_path / "copy").glob("pipelines/__pycache__/runner.*.pyc")
    assert str(tmp_path).encode() not in compiled.read_bytes()  # equal copies are equal archives


def test_code_that_changes_as_a_run_begins_is_refused(project, tmp_path):
    code = code_digests(STAGE, project)
    with (project / "atjem" / "losses.py").open("a") as file:
        file.write("MORE = 1\n")
    with pytest.raises(BadInput, match=r"atjem/losses.py.*changed as the run began"):
        _copy_code(PACKAGES, tmp_path / "copy", code)


def test_code_that_cannot_be_read_is_one_line(project, tmp_path):
    with pytest.raises(BadInput, match="the project's code"):
        _copy_code(PACKAGES, Path("/dev/full"), {})
