"""A run made again from its record: by this code or the code that made it, and what is said otherwise."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import provenance
from pipelines.commands import reproduce
from pipelines.commands.reproduce import _place, _unpack
from pipelines.problems import BadInput
from pipelines.provenance import _without_secrets
from pipelines.reproduction import Reproduction, judged, other_circumstances
from pipelines.tracking.run_archive import PastRun
from pipelines.tracking.run_record import read_record
from tests.support.running import ROOT, Result, copy_project, reduced_arguments

THEN = {"accuracy": 0.5, "distance": 2.0, "seconds": 10.0, "samples_per_second": 3.0}
NEAR = {**THEN, "distance": 2.001}
CHANGED = "atjem/losses.py"


def test_times_are_not_judged_and_a_tolerance_is_relative():
    found = judged(THEN, {"accuracy": 0.5, "distance": 2.02, "seconds": 30.0, "new": 1.0}, 0.02)
    assert {name: figure.verdict for name, figure in found.items()} == {
        "accuracy": "equal",
        "distance": "within",
        "new": "new",
    }
    assert judged(THEN, {**THEN, "distance": 2.05}, 0.02)["distance"].verdict == "differs"
    assert judged({"gap": 0.0}, {"gap": 1e-7}, 1e-6)["gap"].verdict == "within"


@pytest.mark.parametrize(
    ("now", "data", "verdict"),
    [
        (THEN, (), "reproduced: of 2 figures 2 are equal to the last bit"),
        (
            {**THEN, "distance": 2.001},
            (),
            "reproduced: of 2 figures 1 are equal to the last bit, 1 within 0.01",
        ),
        ({**THEN, "distance": 3.0}, (), "not reproduced within 0.01: distance"),
        ({"accuracy": 0.5}, (), "not reproduced within 0.01: distance"),
        (THEN, ("train",), "not reproduced: other images in train"),
    ],
    ids=["equal", "within", "differs", "missing", "data"],
)
def test_the_verdict_is_one_line(now, data, verdict):
    found = Reproduction(0.01, judged(THEN, now, 0.01), data)
    assert found.verdict == verdict
    assert found.reproduced == verdict.startswith("reproduced")


def test_a_run_without_figures_is_not_reproduced():
    assert not Reproduction(0.01, {}).reproduced


def test_what_differs_around_it_is_told():
    then = {"atjem.python": "3.11.1", "atjem.machine": "a", "libraries": {"ray": "1", "torch": "2", "x": "1"}}
    now = {"atjem.python": "3.11.1", "atjem.machine": "b", "libraries": {"ray": "1", "torch": "3"}}
    assert list(other_circumstances(then, now)) == [
        "machine a then, b now",
        "torch 2 then, 3 now",
        "x 1 then, none now",
    ]


def _record(**changed: object) -> str:
    own = {"recipe": "digits", "settings": {}, "code": {}, "libraries": {}, "smoke": False}
    return json.dumps(own | {"git.commit": "0" * 40} | changed)


def test_what_is_a_record():
    for commit in ("unknown", "0" * 40, f"{'a1' * 20}+changes"):
        assert read_record(_record(**{"git.commit": commit})) is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"recipe": "digits"}',
        "[" * 100_000,
        _record(recipe="../digits"),
        _record(**{"git.commit": "--output=x"}),
    ],
    ids=["empty", "list", "cut", "little", "deep", "path", "option"],
)
def test_what_is_no_record(text):
    assert read_record(text) is None


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
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "all"]):
        _git(project, *words)
    monkeypatch.setattr(provenance, "ROOT", project)
    monkeypatch.setattr(reproduce, "ROOT", project)
    commit = provenance.git_commit()
    (project / "atjem" / "new.py").write_text("new = 1\n")
    (tmp_path / ".code" / "atjem").mkdir(parents=True)
    (tmp_path / ".code" / "atjem" / "new.py").write_text("new = 1\n")
    _unpack(commit, provenance.uncommitted(), tmp_path / "code")
    assert {path.name for path in (tmp_path / "code" / "atjem").iterdir()} == {"a.py", "new.py"}


def _git(folder: Path, *words: str) -> None:
    own = ["git", "-C", str(folder), "-c", "user.name=me", "-c", "user.email=me@localhost"]
    subprocess.run([*own, *words], check=True)


def test_changes_new_files_and_removed_ones_are_kept(tmp_path, monkeypatch):
    (tmp_path / "atjem").mkdir()
    for name in ("changed", "removed", "same"):
        (tmp_path / "atjem" / f"{name}.py").write_text(f"{name} = 1\n")
    (tmp_path / "notes.txt").write_text("mine")
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "all"]):
        _git(tmp_path, *words)
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


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """The project, committed, with a change that is not."""
    folder = tmp_path_factory.mktemp("checkout") / "project"
    copy_project(folder, "atjem", "data", "pipelines")
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "all"]):
        _git(folder, *words)
    with (folder / CHANGED).open("a") as file:
        file.write("\n\nMORE = 1\n")
    return folder


def call(checkout: Path, *words: str) -> Result:
    command = [sys.executable, *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=checkout, timeout=800)
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.faults
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


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nothing"], "--workdir"),
        (["x", "--tolerance", "2"], "--tolerance: 2; must be 0 or more, and less than 1"),
    ],
)
def test_bad_input_is_one_line(tmp_path, words, named):
    done = call(ROOT, "-m", "pipelines", "reproduce", *words, "--workdir", str(tmp_path))
    assert done.code == 2
    assert len(done.errors) == 1
    assert named in done.errors[0]
    assert "Traceback" not in done.err


def test_json_is_plain():
    found = Reproduction(0.01, judged(THEN, THEN, 0.01))
    assert json.loads(json.dumps(found.as_object()))["figures"]["accuracy"] == {
        "then": 0.5,
        "now": 0.5,
        "verdict": "equal",
    }
