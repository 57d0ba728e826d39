"""Artifacts and checkpoints are there whole or not at all."""

import json
from contextlib import suppress

import pytest

from pipelines.files import read_json, read_json_list, write_json
from pipelines.workdir.checkpoints import checkpoint_steps, new_checkpoint, sound_checkpoint
from pipelines.workdir.store import Store


def _publish(store, content="one", fingerprint="abc"):
    with store.new_artifact("sample", fingerprint) as draft:
        (draft.folder / "deep").mkdir()
        (draft.folder / "deep" / "file.txt").write_text(content)
        return draft.publish(_manifest(fingerprint))


def _manifest(fingerprint, **changed):
    whole = {
        "fingerprint": fingerprint,
        "node": "sample",
        "part": "",
        "run_id": "r",
        "created": 1.0,
        "seconds": 0.1,
    }
    return {**whole, "identity": {}, "made_from": {}, "metrics": {}, **changed}


def test_artifact_appears_with_its_manifest(tmp_path):
    store = Store(tmp_path)
    assert store.manifest("sample", "abc") is None
    manifest = _publish(store)
    assert store.manifest("sample", "abc") == manifest
    assert list(manifest["files"]) == ["deep/file.txt"]
    assert [path.name for path in (tmp_path / "artifacts" / "sample").iterdir()] == ["abc"]


def test_failed_draft_leaves_nothing(tmp_path):
    store = Store(tmp_path)
    with suppress(RuntimeError), store.new_artifact("sample", "abc") as draft:
        (draft.folder / "half").write_text("x")
        raise RuntimeError
    assert list((tmp_path / "artifacts" / "sample").iterdir()) == []


def test_publishing_again_replaces(tmp_path):
    store = Store(tmp_path)
    _publish(store, "one")
    _publish(store, "two")
    assert (store.artifact("sample", "abc") / "deep" / "file.txt").read_text() == "two"
    assert [path.name for path in (tmp_path / "artifacts" / "sample").iterdir()] == ["abc"]


def test_artifact_under_another_fingerprint_does_not_count(tmp_path):
    store = Store(tmp_path)
    _publish(store)
    store.artifact("sample", "abc").rename(store.artifact("sample", "def"))
    assert store.manifest("sample", "def") is None


def test_unfinished_work_counts_while_its_inputs_are_what_they_were(tmp_path):
    store = Store(tmp_path)
    for made_from, kept in (({"data": "a"}, []), ({"data": "a"}, [5]), ({"data": "b"}, [])):
        store.begin_work("train_stage1", "abc", made_from)
        assert store.steps("train_stage1", "abc") == kept
        _save(store.checkpoints("train_stage1", "abc"), 5)


def test_a_workdir_is_known_wherever_it_lies(tmp_path):
    one, other = Store(tmp_path / "one"), Store(tmp_path / "other")
    known = one.identity()
    assert other.identity() != known
    one.workdir.rename(tmp_path / "moved")
    assert Store(tmp_path / "moved").identity() == known


def test_failure_is_remembered_until_it_succeeds(tmp_path):
    store = Store(tmp_path)
    store.note_failure("sample", "abc", "out of luck")
    assert store.failure("sample", "abc") == "out of luck"
    _publish(store)
    assert store.failure("sample", "abc") is None


@pytest.mark.parametrize("harm", ["delete", "truncate", "manifest"])
def test_damaged_artifact_does_not_count(tmp_path, harm):
    store = Store(tmp_path)
    _publish(store)
    file = store.artifact("sample", "abc") / "deep" / "file.txt"
    if harm == "delete":
        file.unlink()
    elif harm == "truncate":
        file.write_text("")
    else:
        (store.artifact("sample", "abc") / "manifest.json").write_text('{"files": ')
    assert store.manifest("sample", "abc") is None


def test_newest_manifest_of_a_node(tmp_path):
    store = Store(tmp_path)
    for node, created, fingerprint in (("sample", 1, "a"), ("sample", 3, "b"), ("sample.stage1", 9, "c")):
        with store.new_artifact("sample", fingerprint) as draft:
            draft.publish(_manifest(fingerprint, node=node, created=float(created)))
    *_, latest = store.manifests("sample")
    assert latest is not None
    assert latest["fingerprint"] == "b"
    assert store.manifests("sample.other") == []


def _save(folder, step):
    with new_checkpoint(folder, step) as path:
        (path / "state").write_text(f"at {step}")


def test_last_two_checkpoints_are_kept_in_numeric_order(tmp_path):
    for step in (5, 10, 9, 100):
        _save(tmp_path, step)
    assert [step for step, _ in checkpoint_steps(tmp_path)] == [10, 100]


def test_damaged_checkpoint_is_passed_over(tmp_path):
    _save(tmp_path, 10)
    _save(tmp_path, 20)
    assert sound_checkpoint(tmp_path) == (20, tmp_path / "step_20")
    (tmp_path / "step_20" / "state").write_text("at 2x")
    assert sound_checkpoint(tmp_path) == (10, tmp_path / "step_10")
    (tmp_path / "step_10" / "checksums.json").unlink()
    assert sound_checkpoint(tmp_path) is None


def test_failed_save_leaves_nothing(tmp_path):
    with suppress(RuntimeError), new_checkpoint(tmp_path, 1) as path:
        (path / "state").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_json_files(tmp_path):
    write_json(tmp_path / "a.json", {"é": 1})
    assert read_json(tmp_path / "a.json") == {"é": 1}
    assert read_json_list(tmp_path / "a.json") is None
    (tmp_path / "b.json").write_text(json.dumps([1]))
    assert read_json_list(tmp_path / "b.json") == [1]
    assert read_json(tmp_path / "missing.json") is None
