"""`python -m pipelines gc`: what goes, what stays, and that a dry run removes nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.commands.gc import removable
from pipelines.plan import make_plan
from pipelines.recipe import load_recipe
from pipelines.workdir.lock import locked
from pipelines.workdir.store import Store
from tests.support.running import Result
from tests.support.shared_workdir import publish


def _publish(store: Store, stage: str, fingerprint: str) -> Path:
    publish(store, {"model.safetensors": b"x" * 1000}, fingerprint, stage)
    return store.artifact(stage, fingerprint)


@pytest.fixture
def store(tmp_path) -> Store:
    """A finished and an unfinished training, a failure that was mended and one that was not, two drafts."""
    store = Store(tmp_path)
    _publish(store, "train_stage2", "done")
    for key in ("done", "open"):
        checkpoint = store.checkpoints("train_stage2", key) / "step_10"
        checkpoint.mkdir(parents=True)
        (checkpoint / "trainer.pt").write_bytes(b"x" * 500)
        store.note_failure("train_stage2", key, "killed")
    (store.checkpoints("train_stage2", "open") / ".step_20.abcd").mkdir()
    (tmp_path / "artifacts" / "sample" / ".abc.1234").mkdir(parents=True)
    return store


@pytest.fixture
def gc(cli) -> Callable[..., Result]:
    return lambda *words: cli("gc", *words)


def told(store: Store, *keep: str) -> dict[str, str]:
    return {str(own.path.relative_to(store.workdir)): own.why for own in removable(store, keep)}


def everything(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.name != ".lock"}


def test_only_what_can_never_be_missed_goes(store):
    assert told(store) == {
        "checkpoints/train_stage2/open/.step_20.abcd": "leftover",
        "artifacts/sample/.abc.1234": "leftover",
        "artifacts/train_stage2/done.failed.json": "leftover",
        "checkpoints/train_stage2/done": "finished",
    }


def test_dry_run_removes_nothing_and_the_run_what_it_named(store, gc):
    before = everything(store.workdir)
    dry = gc("--workdir", str(store.workdir), "--dry-run", "--json")
    assert dry.code == 0, dry.err
    assert everything(store.workdir) == before
    wet = gc("--workdir", str(store.workdir), "--json")
    assert wet.json == dry.json | {"dry_run": False}
    assert wet.json["bytes"] > 500
    gone = {Path(own["path"]) for own in wet.json["removed"]}
    assert {path for path in before if not path.exists()} >= gone
    assert store.manifest("train_stage2", "done") is not None
    assert (store.checkpoints("train_stage2", "open") / "step_10" / "trainer.pt").exists()
    assert gc("--workdir", str(store.workdir), "--json").json["removed"] == []


def test_kept_recipes_keep_theirs_and_others_go(store):
    recipe, _ = load_recipe("digits", ["seed=3"])
    step = make_plan(recipe.settings, store).steps["preprocess"]
    mine = _publish(store, "preprocess", step.fingerprint)
    own = told(store, "digits seed=3")
    assert str(mine.relative_to(store.workdir)) not in own
    assert own["artifacts/train_stage2/done"] == "unused"
    assert own["checkpoints/train_stage2/open"] == "unused"
    assert "checkpoints/train_stage2/open/.step_20.abcd" not in own  # gone with its folder
    assert str(mine.relative_to(store.workdir)) not in told(store, "digits seed=4", "digits")  # one digits
    assert told(store, "digits data.image_size=9")[str(mine.relative_to(store.workdir))] == "unused"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--keep", "digit"], "error: --pipeline: 'digit'; did you mean 'digits'?"),
        (["--keep", "digits sead=1"], "error: sead: unknown setting"),
        (["--keep", 'digits "'], "error: --keep: 'digits \""),
        (["--workdir", "nowhere"], "error: --workdir: 'nowhere'; no workdir"),
    ],
)
def test_bad_input_is_one_line(store, gc, arguments, line):
    assert gc("--workdir", str(store.workdir), *arguments).error.startswith(line)


def test_a_workdir_at_work_is_left_alone(store, gc):
    with locked(store.workdir, lambda _: None, lambda: False):
        assert "works in it; wait for its end" in gc("--workdir", str(store.workdir)).error
