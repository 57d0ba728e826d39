"""The uncommitted code that a run keeps: all of it, without secrets."""

import pytest

from pipelines import provenance
from pipelines.provenance import _without_secrets
from tests.support.running import commit_all


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ('+password = "planted"', False),
        ("+    api_key: str = 'planted'", False),
        ('+call(access_key="planted")', False),
        ("+# the token is: planted", False),
        ("+url = 'https://me:planted@host/'", False),
        ('+os.environ["MLFLOW_TRACKING_PASSWORD"] = "planted"', False),
        ('+os.environ.setdefault("HF_TOKEN", "planted")', False),
        ("+TOKEN: str | None = f'planted'", False),
        ('+    "Authorization": "planted",', False),
        ('+parser.add_argument("--token", default="planted")', False),
        ("+token = (\n+    'planted'\n", False),
        ("+x = get('Bearer planted')", False),
        ("+x = 'hf_planted0123456789'", False),
        ("+-----BEGIN RSA PRIVATE KEY-----\n+planted", False),
        ("+++ b/a.yaml\n+api_key: planted", False),
        ("+token = planted[3]", True),
        ('+token = os.environ["PLANTED_TOKEN"]  # planted', True),
        ("+x = 'planted'", True),
    ],
)
def test_secrets_in_changes_are_not_kept(line, kept):
    assert ("planted" in _without_secrets(line)) == kept


def test_changes_new_files_and_removed_ones_are_kept(tmp_path, monkeypatch):
    (tmp_path / "atjem").mkdir()
    for name in ("changed", "removed", "same"):
        (tmp_path / "atjem" / f"{name}.py").write_text(f"{name} = 1\n")
    (tmp_path / "notes.txt").write_text("mine")
    commit_all(tmp_path)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.uncommitted() == ""
    (tmp_path / "atjem" / "changed.py").write_text("changed = 2\n")
    (tmp_path / "atjem" / "removed.py").unlink()
    (tmp_path / "atjem" / "new.py").write_text("new = 1\n")
    (tmp_path / "notes.txt").write_text("mine alone")
    told = provenance.uncommitted()
    assert [name for name in ("changed", "removed", "new", "same", "notes") if name in told] == [
        "changed",
        "removed",
        "new",
    ]
    assert "+changed = 2" in told
