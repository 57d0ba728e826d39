"""Checkpoints and parts on an object store: sent by one machine, pulled by another."""

import shutil
from pathlib import Path

import pytest

from pipelines.workdir.checkpoints import checkpoint_steps
from pipelines.workdir.remote import Remote, RemoteError
from pipelines.workdir.shared_store import SharedStore


def test_unfinished_work_counts_while_its_inputs_are_what_they_were(at):
    """The same holds for files that another machine has cached."""
    for made_from, kept in (({"data": "a"}, []), ({"data": "a"}, [10]), ({"data": "b"}, [])):
        at("a").begin_work("sample", "key", made_from)
        assert at("a").steps("sample", "key") == kept
        folder = _pulled(at("b"))
        assert [step for step, _ in checkpoint_steps(folder)] == kept
        assert (folder / "part.safetensors").exists() == bool(kept)
        (folder / "part.safetensors").write_bytes(b"never sent")
        if not kept:
            _save(at("a"), 10)


def test_checkpoint_written_anew_and_not_sent_is_nobodys(at):
    """Processes on several machines restore the same."""
    store = at("a")
    folder = _save(store, 10, b"first")
    (folder / "state").write_bytes(b"again")
    for machine in ("a", "b"):
        assert (_pulled(at(machine)) / "step_10" / "state").read_bytes() == b"first"


def _pulled(store: SharedStore) -> Path:
    """The checkpoints and parts of the machine, once it has pulled."""
    mirror = store.mirror("sample", "key")
    mirror.pull()
    return mirror.folder


def _save(store: SharedStore, step: int, content: bytes = b"state") -> Path:
    """Saves a checkpoint as the first training worker does."""
    mirror = store.mirror("sample", "key")
    folder = mirror.folder / f"step_{step}"
    folder.mkdir(parents=True)
    (folder / "state").write_bytes(content)
    mirror.push(folder)
    mirror.wait()
    return folder


def test_checkpoints_are_pulled_by_another_machine(at):
    _save(at("a"), 10)
    sent = _save(at("a"), 20)
    shutil.rmtree(sent.with_name("step_10"))  # as the training does
    kept = _save(at("a"), 30)
    other = at("b")
    assert other.steps("sample", "key") == other.glance().steps("sample", "key") == [20, 30]
    assert other.steps("sample", "key", 25) == [20]
    folder = _pulled(other)
    assert {path.name for path in folder.glob("step_*")} == {"step_20", "step_30"}
    pulled = folder / "step_30" / "state"
    assert pulled.read_bytes() == (kept / "state").read_bytes()
    inode = pulled.stat().st_ino
    _pulled(other)
    assert pulled.stat().st_ino == inode


def test_checkpoint_that_was_not_sent_is_on_no_machine(at):
    """Workers on several machines go on from the same one."""
    _save(at("a"), 10)
    mirror = at("a").mirror("sample", "key")
    (mirror.folder / "step_20").mkdir()
    mirror.pull()
    assert [path.name for path in mirror.folder.glob("step_*")] == ["step_10"]
    _save(at("b"), 20, b"theirs")
    mirror = at("a").mirror("sample", "key")
    (mirror.folder / "step_20").mkdir()
    (mirror.folder / "step_20" / "state").write_bytes(b"ours")
    mirror.pull()
    assert (mirror.folder / "step_20" / "state").read_bytes() == b"theirs"


def test_damaged_checkpoint_counts_as_never_sent(at):
    _save(at("a"), 10)
    _save(at("a"), 20)
    at("a").remote.write("checkpoints/sample/key/step_20/state", b"stale")
    assert [path.name for path in _pulled(at("b")).glob("step_*")] == ["step_10"]


def test_parts_and_notes_come_and_go(at):
    mirror = at("a").mirror("sample", "key")
    (mirror.folder / "final").mkdir(parents=True)
    for name in ("final/one.tar", "final/00000.json", "diverged.json"):
        (mirror.folder / name).write_bytes(name.encode())
    mirror.push(mirror.folder / "final/one.tar", mirror.folder / "final/00000.json")
    mirror.push(mirror.folder / "diverged.json")
    mirror.wait()
    assert at("b").finished_parts("sample", "key") == "1 finished parts"
    other = at("b").mirror("sample", "key")
    other.pull()
    for name in ("final/one.tar", "final/00000.json", "diverged.json"):
        assert (other.folder / name).read_bytes() == name.encode()
    (other.folder / "diverged.json").unlink()
    other.push(other.folder / "diverged.json")
    other.wait()
    folder = _pulled(at("c"))
    assert not (folder / "diverged.json").exists()
    assert (folder / "final/one.tar").exists()
    at("c").drop_checkpoints("sample", "key")
    assert at("c").remote.entries() == {}


def test_failed_push_is_told_by_the_next_call(at, through):
    store = at("a", through.port)
    mirror = store.mirror("sample", "key")
    mirror.remote = Remote(store.place, store.remote.endpoint, "us-east-1", (0.1,))
    (mirror.folder / "step_10").mkdir(parents=True)
    (mirror.folder / "step_10" / "state").write_bytes(b"x")
    through.is_open = False
    mirror.push(mirror.folder / "step_10")
    with pytest.raises(RemoteError):
        mirror.wait()
    through.is_open = True
    assert store.steps("sample", "key") == []
    mirror.push(mirror.folder / "step_10")
    mirror.wait()
    assert store.steps("sample", "key") == [10]


def test_folder_that_all_machines_write_into(at):
    store = at("a")
    mirror, other = store.mirror("sample", "key"), at("b").mirror("sample", "key")
    mirror.shared(mirror.folder / "images").write("train-00000.tar", b"one")
    other.shared(other.folder / "images").write(".parts/train-00001.tar.parquet", b"two")
    mirror.collect(mirror.folder / "images")
    assert (mirror.folder / "images" / "train-00000.tar").read_bytes() == b"one"
    assert (mirror.folder / "images" / ".parts" / "train-00001.tar.parquet").read_bytes() == b"two"
    assert store.finished_parts("sample", "key") == "1 finished shards"
