"""Artifacts on an object store: found by other machines, whole or not at all."""

import json
import pickle
import signal
from pathlib import Path

import pytest

from data.folders import ObjectFolder
from pipelines.workdir.remote import Remote, RemoteError
from pipelines.workdir.shared_store import SharedStore
from pipelines.workdir.transfer import DamagedError
from tests.support.planted import ACCESS_KEY, SECRET_KEY
from tests.support.servers import wait_until
from tests.support.shared_workdir import FINGERPRINT, publish, python


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


_PUBLISH = 'publish(store, {f"file{n}": bytes(1 << 20) for n in range(12)})'


def test_killed_upload_leaves_nothing_that_counts(at, server, through, tmp_path):
    store = at("b")
    through.hold_after = 6 << 20
    process = python(store, _PUBLISH, through.port, tmp_path / "a")
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


@pytest.mark.slow
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


def test_many_manifests_are_one_request(at, s3_folder):
    for number in range(20):
        publish(at("a"), {"file": b"x"}, fingerprint=f"{number:020}", created=float(number))
    store = at("b")
    assert len(store.manifests("sample")) == 20

    def requests() -> int:
        return (s3_folder / "s3.log").read_text().count("HTTP/1.1")

    before = requests()
    glanced = store.glance()
    found = glanced.manifests("sample")
    assert [manifest["created"] for manifest in found] == list(range(20))
    assert all(glanced.manifest("sample", manifest["fingerprint"]) for manifest in found)
    assert glanced.failure("sample", "other") is None
    assert (glanced.steps("sample", "key"), glanced.finished_parts("sample", "key")) == ([], "")
    assert requests() == before + 1


_FETCH = """
folder = store.fetch("sample", FINGERPRINT)
print(folder, (folder / "file").stat().st_ino)
"""


def test_processes_of_one_machine_fetch_once(at, server, tmp_path):
    publish(at("a"), {"file": bytes(4 << 20)})
    others = [python(at("a"), _FETCH, server, tmp_path / "b") for _ in range(3)]
    told = {process.communicate(timeout=120) for process in others}
    assert len({out for out, _ in told}) == 1, told


def test_killed_fetch_leaves_nothing_and_is_made_up_for(at, server, through, tmp_path):
    publish(at("a"), {f"file{number or ''}": bytes(1 << 20) for number in range(6)})
    store = at("b")
    through.hold_after = 2_500  # requests are small: some files are on their way
    process = python(store, _FETCH, through.port, tmp_path / "b")
    wait_until(lambda: through.holds or process.poll() is not None, 60)
    process.kill()
    process.wait()
    assert not store.artifact("sample", FINGERPRINT).exists()
    done = python(store, _FETCH, server, tmp_path / "b")
    assert done.wait(120) == 0, done.communicate()
    assert [path.name for path in store.artifact("sample", FINGERPRINT).parent.iterdir()] == [FINGERPRINT]
