"""Objects are written, read and removed, also over connections that drop."""

import os

import pytest

from pipelines.workdir.remote import open_remote


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


def test_upload_survives_dropped_connections(at, through, tmp_path):
    remote = at("a", through.port).remote
    (tmp_path / "file").write_bytes(os.urandom(3 << 20))
    through.most, through.cuts = 1 << 20, 4  # pyarrow itself tries thrice
    remote.put(tmp_path / "file", "file")
    assert through.dropped == 4
    assert remote.read("file") == (tmp_path / "file").read_bytes()
