"""Where a run is reproduced, and bad input of the command."""

import pytest

from pipelines import provenance
from pipelines.commands import reproduce
from pipelines.commands.reproduce import _place, _unpack
from pipelines.problems import BadInput
from pipelines.tracking.run_archive import PastRun
from tests.support.running import commit_all


def test_results_that_are_there_are_not_taken_for_a_reproduction(tmp_path):
    past, other = (PastRun(name, "run", "digits", "", {}, {}, {}) for name in ("a" * 32, "b" * 32))
    place = _place(tmp_path / "new", past)
    (place / "artifacts").mkdir()
    assert _place(place, past) == place  # interrupted, it goes on
    with pytest.raises(BadInput, match="--into"):
        _place(place, other)


def test_unpacking_that_was_interrupted_begins_anew(tmp_path, monkeypatch):
    project = tmp_path / "project"
    (project / "atjem").mkdir(parents=True)
    (project / "atjem" / "a.py").write_text("a = 1\n")
    commit_all(project)
    monkeypatch.setattr(provenance, "ROOT", project)
    monkeypatch.setattr(reproduce, "ROOT", project)
    commit = provenance.git_commit()
    (project / "atjem" / "new.py").write_text("new = 1\n")
    (tmp_path / ".code" / "atjem").mkdir(parents=True)
    (tmp_path / ".code" / "atjem" / "new.py").write_text("new = 1\n")
    _unpack(commit, provenance.uncommitted(), tmp_path / "code")
    assert {path.name for path in (tmp_path / "code" / "atjem").iterdir()} == {"a.py", "new.py"}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nothing"], "--workdir"),
        (["x", "--tolerance", "2"], "--tolerance: 2; must be 0 or more, and less than 1"),
    ],
)
def test_bad_input_is_one_line(cli, tmp_path, words, named):
    assert named in cli("reproduce", *words, "--workdir", str(tmp_path)).error
