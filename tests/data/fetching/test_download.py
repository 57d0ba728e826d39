"""Downloading a file from a faulty server: complete, resumed where possible, requested once."""

import time
from email.utils import formatdate
from itertools import pairwise

import pytest

from tests.support.origin import Clock, fetch, fetched, jpeg, name_of, present, publish

HALF, MORE = 1 / 2, 3 / 4  # of the file that is continued from there


@pytest.mark.parametrize(
    ("faults", "starts"),
    [
        (["500", "502"], [0, 0, 0]),
        (["408"], [0, 0]),
        (["429 7"], [0, 0]),
        (["503 7"], [0, 0]),
        (["flip"], [0, 0]),
        (["content-md5"], [0, 0]),
        (["changed"], [0, 0]),
        (["half"], [0, HALF]),
        (["half", "half"], [0, HALF, MORE]),
        (["half", "whole"], [0, HALF]),
        (["half", "changed"], [0, HALF, 0]),
        (["half", "misplaced"], [0, HALF, 0]),
        (["half", "416"], [0, HALF, 0]),
        (["half", "flip"], [0, HALF, 0]),
        (["weak-half"], [0, 0]),
        (["no-etag"], [0, 0]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_a_server_that_misbehaves_for_a_while_is_asked_again(origin, tmp_path, faults, starts):
    """A download resumes only if the remaining bytes belong to the same file."""
    path = f"/{name_of(3)}.jpg"
    publish(origin, name_of(3))
    origin.faults[path] = list(faults)
    assert fetch(origin, tmp_path, name_of(3)).failed == {}
    assert present(tmp_path) == fetched(origin, name_of(3))
    size = len(origin.files[path])
    places = {0: None, HALF: f"bytes={size // 2}-", MORE: f"bytes={size // 2 + (size - size // 2) // 2}-"}
    assert origin.log == [(path, places[start]) for start in starts]


@pytest.mark.parametrize(
    ("etags", "faults", "continued"),
    [((None, None), ["half"], [False, True]), (('"1"', '"2"'), ["half", "forced"], [False, True, False])],
    ids=["If-Range is heeded", "only the ETag tells"],
)
def test_a_file_that_changed_in_between_is_not_mixed(origin, tmp_path, etags, faults, continued):
    """What was kept of the old file is dropped."""
    path = f"/{name_of(3)}.jpg"
    publish(origin, name_of(3))
    origin.faults[path] = list(faults)
    for attempts, number, etag in ((1, 3, etags[0]), (5, 99, etags[1])):
        origin.files[path] = jpeg(number)
        if etag:
            origin.etags[path] = etag
        assert fetch(origin, tmp_path, name_of(3), num_attempts=attempts).num_fetched == (number == 99)
    assert present(tmp_path) == fetched(origin, name_of(3))
    assert [bool(span) for _, span in origin.log] == continued


@pytest.mark.parametrize(
    ("faults", "num_requests", "reason"),
    [
        ([], 1, "HTTP 404 Not Found"),
        (["403"], 1, "HTTP 403 Forbidden"),
        (["500"] * 9, 5, "HTTP 500 Internal Server Error, 5 times"),
        (["429"] * 9, 5, "HTTP 429 Too Many Requests, 5 times"),
        (["429 3600"], 1, "HTTP 429 Too Many Requests, to be tried again in 3600 s"),
    ],
    ids=["404", "403", "500", "429", "an hour"],
)
def test_refusals_are_bounded_and_listed(origin, tmp_path, faults, num_requests, reason):
    publish(origin, name_of(1), name_of(3))
    gone = f"/{name_of(2)}.jpg"
    origin.faults[gone] = list(faults)
    tally = fetch(origin, tmp_path, name_of(1), name_of(2), name_of(3))
    assert tally.failed == {name_of(2): reason}
    assert origin.asked()[gone] == num_requests
    listed = {"failed.tsv": f"{name_of(2)}\t{reason}\n".encode()}
    assert present(tmp_path) == fetched(origin, name_of(1), name_of(3)) | listed
    publish(origin, name_of(2))
    origin.faults.clear()
    assert fetch(origin, tmp_path, name_of(1), name_of(2), name_of(3)).num_fetched == 1
    assert present(tmp_path) == fetched(origin, name_of(1), name_of(2), name_of(3))


@pytest.mark.parametrize(
    ("content", "faults", "reason"),
    [
        (b"<html>no picture</html>", [], "not a whole image: cannot identify image file"),
        (b"", [], "not a whole image: cannot identify image file"),
        (jpeg(2)[:-900], [], "not a whole image: image file is truncated"),
        (jpeg(2), ["flip"] * 9, "the MD5 differs from the server's, 5 times"),
    ],
    ids=["text", "empty", "truncated at the source", "other MD5"],
)
def test_damaged_images_are_fetched_again_then_listed_and_not_kept(origin, tmp_path, content, faults, reason):
    path = f"/{name_of(2)}.jpg"
    origin.files[path], origin.faults[path] = content, faults
    tally = fetch(origin, tmp_path, name_of(2))
    assert tally.failed[name_of(2)].startswith(reason)
    assert origin.asked() == {path: 5}
    assert set(present(tmp_path)) == {"failed.tsv"}


def test_waits_double_with_jitter_and_honour_retry_after(origin, tmp_path):
    publish(origin, name_of(1))
    path = f"/{name_of(1)}.jpg"
    origin.faults[path] = ["500", "500", "503 40", "429 " + formatdate(time.time() + 60, usegmt=True)]
    clock, times = Clock(), []
    origin.on_request = lambda: times.append(clock.now)
    assert fetch(origin, tmp_path, name_of(1), clock=clock).num_fetched == 1
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert 0.5 <= gaps[0] <= 1
    assert 1 <= gaps[1] <= 2
    assert gaps[2] == pytest.approx(40)
    assert 50 <= gaps[3] <= 60  # the date is one of real time
