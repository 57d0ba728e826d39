"""Artifacts and checkpoints are there whole or not at all."""

from contextlib import suppress

import pytest

from pipelines.workdir.checkpoints import new_checkpoint
from pipelines.workdir.store import Store
from tests.support.shared_workdir import publish


def _publish(store, content=b"one"):
    return publish(store, {"deep/file.txt": content}, "abc")


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
    _publish(store, b"one")
    _publish(store, b"two")
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
        with new_checkpoint(store.checkpoints("train_stage1", "abc"), 5):
            pass


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


@pytest.mark.parametrize("harm", ["delete", "truncate"])
def test_damaged_artifact_does_not_count(tmp_path, harm):
    store = Store(tmp_path)
    _publish(store)
    file = store.artifact("sample", "abc") / "deep" / "file.txt"
    if harm == "delete":
        file.unlink()
    else:
        file.write_text("")
    assert store.manifest("sample", "abc") is None


def test_newest_manifest_of_a_node(tmp_path):
    store = Store(tmp_path)
    for node, created, fingerprint in (("sample", 1, "a"), ("sample", 3, "b"), ("sample.stage1", 9, "c")):
        publish(store, {}, fingerprint, node=node, created=float(created))
    *_, latest = store.manifests("sample")
    assert latest["fingerprint"] == "b"
    assert store.manifests("sample.other") == []


@pytest.mark.parametrize(
    "content",
    ['{"files": {}}', '{"files": []}', "null", "[]", '{"files": {"a": 1}, "fingerprint": "abc"}', "{"],
)
def test_manifest_of_another_shape_is_no_artifact(tmp_path, content):
    folder = tmp_path / "artifacts" / "sample" / "abc"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(content)
    assert Store(tmp_path).manifest("sample", "abc") is None
    assert Store(tmp_path).manifests("sample") == []


def test_leftovers_of_a_killed_publish_are_swept(tmp_path):
    store = Store(tmp_path)
    for name in (".abc.1234", ".abc.1234.old"):
        (tmp_path / "artifacts" / "sample" / name).mkdir(parents=True)
    store.sweep()
    assert list((tmp_path / "artifacts" / "sample").iterdir()) == []
