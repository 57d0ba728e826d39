"""The workdir on an object store: a real server, real kills, dropped connections, changed bytes."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data.folders import ObjectFolder
from pipelines.workdir.checkpoints import checkpoint_steps
from pipelines.workdir.remote import Remote, RemoteError, open_remote
from pipelines.workdir.shared_store import SharedStore
from pipelines.workdir.transfer import DamagedError
from tests.support.planted import ACCESS_KEY, SECRET_KEY
from tests.support.running import ROOT
from tests.support.servers import s3_environment, wait_until

FINGERPRINT = "0123456789abcdef0123"


def publish(
    store: SharedStore, files: dict[str, bytes], fingerprint: str = FINGERPRINT, **facts: Any
) -> dict:
    manifest = {"fingerprint": fingerprint, "node": "sample", "run_id": "r", "created": 1.0, "seconds": 0.1}
    with store.new_artifact("sample", fingerprint) as draft:
        for name, content in files.items():
            (draft.folder / name).parent.mkdir(exist_ok=True)
            (draft.folder / name).write_bytes(content)
        return draft.publish({**manifest, "identity": {}, "made_from": {}, "metrics": {}, **facts})


def python(code: str, port: int, cache: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Code in a process of its own, on a machine with that cache."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **s3_environment(port, cache), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("kind", ["s3", "file"])
def test_objects_are_written_listed_read_and_removed(at, tmp_path, kind):
    remote = at("a").remote if kind == "s3" else open_remote(f"file://{tmp_path / 'far'}")
    (tmp_path / "file").write_bytes(b"12345")
    remote.put(tmp_path / "file", "a/deep/file")
    remote.write("a/note", b"{}")
    assert {name: entry.size for name, entry in remote.entries("a").items()} == {"deep/file": 5, "note": 2}
    assert remote.entries("a")["note"].mtime_ns > 10**18
    assert remote.read("a/note") == b"{}"
    digest = remote.get("a/deep/file", tmp_path / "new" / "file")
    assert (tmp_path / "new" / "file").read_bytes() == b"12345"
    assert digest == "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"
    remote.remove("a/note")
    remote.remove("a/note")
    assert remote.entries().keys() == {"a/deep/file"}
    remote.remove_tree("a")
    remote.remove_tree("a")
    assert remote.entries() == remote.entries("nowhere") == {}
    with pytest.raises(FileNotFoundError):
        remote.read("a/note")
    assert (remote.unusable(), remote.unwritable()) == ("", "")


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("ftp://host/runs", "use a folder"),
        ("s3://", "names no bucket"),
        ("s3://me:planted@lab/runs", "credentials come from the environment"),
        ("s3://lab/runs?region=here", "must be BUCKET/PREFIX"),
    ],
)
def test_odd_addresses_are_refused(address, allowed):
    with pytest.raises(ValueError, match=allowed):
        open_remote(address)


def test_no_credentials_travel_or_are_written(at, server, tmp_path):
    store = at("a")
    publish(store, {"file": b"x"})
    mirror = store.mirror("sample", "key")
    shared = mirror.shared(mirror.folder / "images")
    assert isinstance(shared, ObjectFolder)
    texts = [pickle.dumps(value) for value in (store, mirror, shared)]
    texts += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    texts += [store.remote.read(name) for name in store.remote.entries()]
    assert not any(key.encode() in text for text in texts for key in (ACCESS_KEY, SECRET_KEY))
    assert pickle.loads(pickle.dumps(store)) == store


def test_artifact_is_found_and_brought_to_another_machine(at):
    manifest = publish(at("a"), {"file": b"one", "figures/grid.png": b"two"})
    other = at("b")
    assert other.manifest("sample", FINGERPRINT) == manifest
    assert not other.artifact("sample", FINGERPRINT).exists()
    folder = other.fetch("sample", FINGERPRINT)
    assert folder.is_relative_to(other.workdir)
    assert (folder / "file").read_bytes() == b"one"
    inode = (folder / "file").stat().st_ino
    assert (other.fetch("sample", FINGERPRINT) / "file").stat().st_ino == inode  # once
    publish(at("a"), {"file": b"new"})
    other = at("b")
    assert (other.fetch("sample", FINGERPRINT) / "file").read_bytes() == b"new"
    assert not (folder / "figures").exists()
    assert {path.name for path in folder.parent.iterdir()} == {FINGERPRINT}


def test_pictures_come_without_the_rest(at):
    publish(at("a"), {"samples.tar": b"large", "figures/grid.png": b"two", "report.html": b"three"})
    folder = at("b").pictures("sample", FINGERPRINT)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {"figures/grid.png", "report.html", "manifest.json"}
    assert not at("b").artifact("sample", FINGERPRINT).exists()


def test_what_the_store_lacks_does_not_exist(at):
    store = at("a")
    publish(store, {"file": b"one"})
    store.remote.remove(f"artifacts/sample/{FINGERPRINT}/manifest.json")
    assert (store.artifact("sample", FINGERPRINT) / "manifest.json").exists()
    assert store.manifest("sample", FINGERPRINT) is None
    assert store.glance().manifest("sample", FINGERPRINT) is None
    with pytest.raises(RemoteError, match="is not there any more"):
        store.fetch("sample", FINGERPRINT)


def test_changed_bytes_are_found_and_never_used(at):
    publish(at("a"), {"file": b"one", "other": b"two"})
    name = f"artifacts/sample/{FINGERPRINT}/file"
    at("a").remote.write(name, b"two")
    store = at("b")
    with pytest.raises(DamagedError, match=f"{name}: its contents .* --force sample"):
        store.fetch("sample", FINGERPRINT)
    assert list((store.workdir / "artifacts" / "sample").iterdir()) == []
    store.remote.write(name, b"longer")
    assert store.manifest("sample", FINGERPRINT) is None
    assert store.glance().manifest("sample", FINGERPRINT) is None
    assert store.glance().manifests("sample") != []  # it is known, and that it is damaged


def test_manifest_that_points_outside_is_refused(at, tmp_path):
    publish(at("a"), {"file": b"one"})
    name = f"artifacts/sample/{FINGERPRINT}/manifest.json"
    text = at("a").remote.read(name).replace(b'"file"', b'"../../../../file"')
    at("a").remote.write(name, text)
    with pytest.raises(DamagedError, match="outside itself"):
        at("b").fetch("sample", FINGERPRINT)


_PUBLISH = """
import sys
from pipelines.workdir.remote import open_remote
from pipelines.workdir.shared_store import shared_store
from tests.pipelines.workdir.test_remote import publish
publish(shared_store(open_remote(sys.argv[1])), {f"file{n}": bytes(1 << 20) for n in range(12)})
"""


def test_killed_upload_leaves_nothing_that_counts(at, server, through, tmp_path):
    store = at("b")
    through.hold_after = 6 << 20
    process = python(_PUBLISH, through.port, tmp_path / "a", store.place)
    wait_until(lambda: through.holds or process.poll() is not None, 60)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.communicate()
    assert store.remote.entries("artifacts")
    assert store.manifest("sample", FINGERPRINT) is None
    store.note_failure("sample", "another", "out of luck")
    store.sweep()
    assert store.remote.entries("artifacts").keys() == {"sample/another.failed.json"}
    assert store.failure("sample", "another") == store.glance().failure("sample", "another") == "out of luck"
    publish(store, {"file": b"x"})
    assert store.manifest("sample", FINGERPRINT) is not None


def test_upload_survives_dropped_connections(at, through, tmp_path):
    remote = at("a", through.port).remote
    (tmp_path / "file").write_bytes(os.urandom(3 << 20))
    through.most, through.cuts = 1 << 20, 4  # pyarrow itself tries thrice
    remote.put(tmp_path / "file", "file")
    assert through.dropped == 4
    assert remote.read("file") == (tmp_path / "file").read_bytes()


def test_connection_that_stays_away_is_one_line_after_some_tries(at, through, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.workdir.remote._PAUSES", (0.1, 0.1))
    store = at("a", through.port)
    store = SharedStore(
        store.workdir, Remote(store.remote.address, store.remote.endpoint, "us-east-1", (0.1, 0.1))
    )
    through.is_open = False
    with pytest.raises(RemoteError) as caught:
        publish(store, {"file": b"x"})
    assert str(caught.value).startswith(f"{store.place}: ")
    assert "\n" not in str(caught.value)
    through.is_open = True
    assert store.manifest("sample", FINGERPRINT) is None
    assert publish(store, {"file": b"x"}) == store.manifest("sample", FINGERPRINT)


def test_no_room_is_one_line(at, tmp_path):
    store = at("a")
    publish(store, {"file": b"one"})
    name = f"artifacts/sample/{FINGERPRINT}/manifest.json"
    manifest = json.loads(store.remote.read(name))
    with pytest.raises(RemoteError, match="no room left"):
        store.remote.get(name, Path("/dev/full"))
    manifest["files"]["file"]["size"] = 10**18
    store.remote.write(name, json.dumps(manifest).encode())
    with pytest.raises(RemoteError, match=r"MB free, .*ATJEM_CACHE"):
        at("b").fetch("sample", FINGERPRINT)


def test_unfinished_work_counts_while_its_inputs_are_what_they_were(at):
    """Also what another machine has kept of it."""
    for made_from, kept in (({"data": "a"}, []), ({"data": "a"}, [10]), ({"data": "b"}, [])):
        at("a").begin_work("sample", "key", made_from)
        assert at("a").steps("sample", "key") == kept
        mirror = at("b").mirror("sample", "key")
        mirror.pull()
        folder = mirror.folder
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
        other = at(machine)
        other.mirror("sample", "key").pull()
        (file,) = other.checkpoints("sample", "key").glob("step_10/state")
        assert file.read_bytes() == b"first"


def _requests(log: Path) -> int:
    return log.read_text().count("HTTP/1.1")


def test_many_manifests_are_one_request(at, s3_folder):
    for number in range(20):
        publish(at("a"), {"file": b"x"}, fingerprint=f"{number:020}", created=float(number))
    store = at("b")
    assert len(store.manifests("sample")) == 20
    log = s3_folder / "s3.log"
    before = _requests(log)
    glanced = store.glance()
    found = glanced.manifests("sample")
    assert [manifest["created"] for manifest in found] == list(range(20))
    assert all(glanced.manifest("sample", manifest["fingerprint"]) for manifest in found)
    assert glanced.failure("sample", "other") is None
    assert (glanced.steps("sample", "key"), glanced.finished_parts("sample", "key")) == ([], "")
    assert _requests(log) == before + 1


def _save(store: SharedStore, step: int, content: bytes = b"state") -> Path:
    """What a training's first worker does."""
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
    mirror = other.mirror("sample", "key")
    mirror.pull()
    assert {path.name for path in mirror.folder.glob("step_*")} == {"step_20", "step_30"}
    assert (mirror.folder / "step_30" / "state").read_bytes() == (kept / "state").read_bytes()
    inode = (mirror.folder / "step_30" / "state").stat().st_ino
    mirror.pull()
    assert (mirror.folder / "step_30" / "state").stat().st_ino == inode


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
    mirror = at("b").mirror("sample", "key")
    mirror.pull()
    assert [path.name for path in mirror.folder.glob("step_*")] == ["step_10"]


def test_parts_and_notes_come_and_go(at):
    mirror = at("a").mirror("sample", "key")
    (mirror.folder / "final").mkdir(parents=True)
    for name in ("final/one.tar", "final/one.safetensors", "diverged.json"):
        (mirror.folder / name).write_bytes(name.encode())
    mirror.push(mirror.folder / "final/one.tar", mirror.folder / "final/one.safetensors")
    mirror.push(mirror.folder / "diverged.json")
    mirror.wait()
    assert at("b").finished_parts("sample", "key") == "1 finished parts"
    other = at("b").mirror("sample", "key")
    other.pull()
    for name in ("final/one.tar", "final/one.safetensors", "diverged.json"):
        assert (other.folder / name).read_bytes() == name.encode()
    (other.folder / "diverged.json").unlink()
    other.push(other.folder / "diverged.json")
    other.wait()
    third = at("c").mirror("sample", "key")
    third.pull()
    assert not (third.folder / "diverged.json").exists()
    assert (third.folder / "final/one.tar").exists()
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


_FETCH = """
import sys
from pipelines.workdir.remote import open_remote
from pipelines.workdir.shared_store import shared_store
folder = shared_store(open_remote(sys.argv[1])).fetch("sample", sys.argv[2])
print(folder, (folder / "file").stat().st_ino)
"""


def test_processes_of_one_machine_fetch_once(at, server, tmp_path):
    publish(at("a"), {"file": bytes(4 << 20)})
    others = [python(_FETCH, server, tmp_path / "b", at("a").place, FINGERPRINT) for _ in range(3)]
    told = {process.communicate(timeout=120) for process in others}
    assert len({out for out, _ in told}) == 1, told


def test_killed_fetch_leaves_nothing_and_is_made_up_for(at, server, through, tmp_path):
    publish(at("a"), {f"file{number or ''}": bytes(1 << 20) for number in range(6)})
    store = at("b")
    through.hold_after = 2_500  # requests are small: some files are on their way
    process = python(_FETCH, through.port, tmp_path / "b", store.place, FINGERPRINT)
    wait_until(lambda: through.holds or process.poll() is not None, 60)
    process.kill()
    process.wait()
    assert not store.artifact("sample", FINGERPRINT).exists()
    done = python(_FETCH, server, tmp_path / "b", store.place, FINGERPRINT)
    assert done.wait(120) == 0, done.communicate()
    assert [path.name for path in store.artifact("sample", FINGERPRINT).parent.iterdir()] == [FINGERPRINT]


def test_odd_stores_are_one_line(at, cli, server, through, tmp_path, monkeypatch):
    store = at("a", through.port)
    plan = ["--pipeline", "digits", "--plan"]
    ok = cli(*plan, "--workdir", store.place)
    assert ok.code == 0, ok.err
    missing = cli(*plan, "--workdir", "s3://no-such-bucket/runs")
    assert missing.code == 2
    assert missing.errors == [
        "error: --workdir: s3://no-such-bucket/runs; there is no bucket 'no-such-bucket'; check the address, "
        "the credentials of the environment and AWS_ENDPOINT_URL"
    ]
    untracked = cli("--pipeline", "digits", "--workdir", store.place, "--json")
    assert untracked.code == 2
    assert [line.split("; ")[0] for line in untracked.errors] == [
        f"error: --tracking-uri: not given, with --workdir {store.place}"
    ]
    through.is_open = False
    away = cli(*plan, "--workdir", store.place)
    assert away.code == 2
    assert len(away.errors) == 1
    assert away.errors[0].startswith(f"error: --workdir: {store.place}; ")
    assert "Traceback" not in away.err
