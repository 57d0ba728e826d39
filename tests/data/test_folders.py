"""Local folders and object stores behave alike; half a file is never seen; secrets stay hidden."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import data
from data.fetch import FetchedFolder
from data.folders import UNFINISHED, FolderError, LocalFolder, as_folder, locked
from data.redact import has_secrets
from tests.support.planted import SECRET_KEY


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path):
    return as_folder(tmp_path / "new" if request.param == "local" else request.getfixturevalue("bucket"))


def test_what_is_written_is_read_back(folder):
    folder.write("a/b.bin", b"0123456789")
    assert folder.read("a/b.bin") == b"0123456789"
    assert (folder.size("a/b.bin"), folder.size("a"), folder.size("c")) == (10, None, None)
    with folder.open("a/b.bin") as file:
        file.seek(3)
        assert file.read(2) == b"34"
    folder.write("a/b.bin", b"other")
    assert folder.read("a/b.bin") == b"other"


def test_names_are_of_all_files_below(folder):
    assert list(folder.names()) == []
    for name in ("1", "a/2", "a/b/3"):
        folder.write(name, b"x")
    assert sorted(folder.names()) == ["1", "a/2", "a/b/3"]
    folder.remove("a/2")
    folder.remove("never there")
    assert sorted(folder.names()) == ["1", "a/b/3"]


def test_missing_file_is_an_error(folder):
    with pytest.raises(FileNotFoundError):
        folder.open("none")


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


def test_other_processes_get_it_by_pickle(folder):
    folder.write("a", b"x")
    assert pickle.loads(pickle.dumps(folder)).read("a") == b"x"


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


def test_fetched_files_are_kept_and_forgotten(bucket):
    origin = as_folder(bucket)
    for name in "abc":
        origin.write(name, name.encode())
    fetched = FetchedFolder(origin, keep=2)
    held = fetched.open("a")
    assert [fetched.read(name) for name in "aab"] == [b"a", b"a", b"b"]
    origin.write("a", b"new")
    assert fetched.read("a") == b"a"  # its copy
    assert fetched.read("c") == b"c"  # b, used the longest ago, goes
    assert fetched.read("b") == b"b"
    assert fetched.read("a") == b"new"
    assert held.read() == b"a"


@pytest.mark.parametrize("sign", ["'", '"', " ", "/", "@", "%27", "\\", ":"])
def test_signs_that_a_secret_may_hold(sign):
    """An address is refused, or opened, without showing what stands before its last @."""
    address = f"s3://KEY:planted{sign}SECRET@bucket/shards?region=us-east-1"
    assert has_secrets(address)
    try:
        shown = as_folder(address).shown
    except FolderError as error:
        shown = str(error)
    assert "SECRET" not in shown


def test_one_process_at_a_time_whoever_waited(tmp_path):
    """Of many that come while others leave, never two are in: a leaver takes the file with it."""
    log, file = tmp_path / "log", tmp_path / "lock"
    code = (
        "import os, sys, time; from pathlib import Path; from data.folders import locked\n"
        "for _ in range(40):\n"
        "    with locked(Path(sys.argv[1])):\n"
        "        os.mkdir(sys.argv[2]); time.sleep(0.002); os.rmdir(sys.argv[2])"
    )
    command = [sys.executable, "-c", code, str(file), str(log)]
    workers = [subprocess.Popen(command, cwd=Path(data.__file__).parents[1]) for _ in range(4)]
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
