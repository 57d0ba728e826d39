"""Local folders and object stores behave alike; half a file is never seen; secrets stay hidden."""

import pickle
import subprocess
import sys

import pytest

from data.folders import UNFINISHED, FolderError, LocalFolder, as_folder, locked
from tests.support.planted import SECRET_KEY
from tests.support.running import ROOT


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path):
    return as_folder(tmp_path / "new" if request.param == "local" else request.getfixturevalue("bucket"))


def test_what_is_written_is_read_back(folder):
    assert list(folder.names()) == []
    with pytest.raises(FileNotFoundError):
        folder.open("none")
    for name in ("1", "a/2", "a/b.bin"):
        folder.write(name, b"0123456789")
    assert sorted(folder.names()) == ["1", "a/2", "a/b.bin"]
    folder.remove("a/2")
    folder.remove("never there")
    assert sorted(folder.names()) == ["1", "a/b.bin"]
    assert (folder.size("a/b.bin"), folder.size("a"), folder.size("c")) == (10, None, None)
    with folder.open("a/b.bin") as file:
        file.seek(3)
        assert file.read(2) == b"34"
    folder.write("a/b.bin", b"other")
    assert pickle.loads(pickle.dumps(folder)).read("a/b.bin") == b"other"


def test_a_file_appears_whole_or_not_at_all(folder):
    def fail() -> None:
        with folder.new_file("a") as file:
            file.write(b"half")
            assert folder.size("a") is None
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(folder.names()) == []


def test_what_a_killed_process_wrote_has_another_name(tmp_path):
    code = (
        "import os, sys; from data.folders import LocalFolder; from pathlib import Path\n"
        "with LocalFolder(Path(sys.argv[1])).new_file('a') as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    (left,) = LocalFolder(tmp_path).names()
    assert left != "a"
    assert left.endswith(UNFINISHED)


def test_secrets_are_not_shown(bucket):
    folder = as_folder(bucket)
    assert SECRET_KEY in bucket
    assert SECRET_KEY not in folder.shown


@pytest.mark.parametrize(
    "address", ["http://host/x", "file:///tmp", "s3://", f"ftp://me:{SECRET_KEY}@host/x"]
)
def test_other_addresses_are_refused(address):
    with pytest.raises(FolderError) as caught:
        as_folder(address)
    assert SECRET_KEY not in str(caught.value)


def test_one_process_at_a_time_whoever_waited(tmp_path):
    """Of many that come while others leave, never two are in: a leaver takes the file with it."""
    log, file = tmp_path / "log", tmp_path / "lock"
    code = (
        "import os, sys, time; from pathlib import Path; from data.folders import locked\n"
        "for _ in range(20):\n"
        "    with locked(Path(sys.argv[1])):\n"
        "        os.mkdir(sys.argv[2]); time.sleep(0.002); os.rmdir(sys.argv[2])"
    )
    command = [sys.executable, "-c", code, str(file), str(log)]
    workers = [subprocess.Popen(command, cwd=ROOT) for _ in range(4)]
    assert [worker.wait(120) for worker in workers] == [0] * 4


def test_lock_refuses_while_another_process_holds_it(tmp_path):
    with (
        locked(tmp_path / "lock"),
        pytest.raises(FolderError, match="taken"),
        locked(tmp_path / "lock", "taken"),
    ):
        pass
    with locked(tmp_path / "lock", "taken"):
        assert (tmp_path / "lock").exists()
    assert not (tmp_path / "lock").exists()
