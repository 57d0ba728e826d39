"""Files of an object store that are fetched whole and forgotten."""

from data.fetch import FetchedFolder
from data.folders import as_folder


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
