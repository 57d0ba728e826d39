"""Records on the disk: what they keep, in which order, and whose they are."""

import json
import resource

import pytest

from pipelines.tracking.outbox import Outbox, others_at_work, outbox_folders, server_name
from tests.support.publisher import HERE, THERE, deliver


def test_what_no_line_can_hold_is_refused_at_once(outbox):
    with pytest.raises(TypeError, match="cannot hold object"):
        outbox.append("call", [object()], {})
    assert outbox.count == 0


def test_secrets_are_not_written_down(outbox):
    outbox.append("tag", ["run", {"where": "https://me:planted@host/x?token=planted"}], {})
    box = Outbox.new(outbox.workdir, server_name(outbox.workdir, "http://me:planted@host"), "digits")
    written = [path.read_text() for path in outbox.workdir.rglob("*") if path.is_file()]
    assert "planted" not in "".join(written)
    assert box.home == "http://***@host"


def test_records_come_in_order_and_go_on_after_a_death(outbox):
    for call in "abcdef":
        outbox.append(call, [], {})
    assert deliver(outbox, 2) == ["a", "b"]
    assert Outbox.left_behind(outbox.folder) is None  # its driver lives
    assert others_at_work(Outbox.new(outbox.workdir, HERE, "other"))
    outbox.close()
    with (outbox.folder / "records.jsonl").open("ab") as file:
        file.write(b'{"number": 6, "call": "cut o')  # as the process was killed
    box = Outbox.left_behind(outbox.folder)
    assert box is not None
    assert (box.pending, box.experiment) == (4, "digits")
    assert deliver(box, 4) == ["c", "d", "e", "f"]
    box.close()
    assert outbox.folder not in outbox_folders(outbox.workdir)


def test_another_store_gets_all_of_it(outbox):
    for call in "abc":
        outbox.append(call, [], {})
    deliver(outbox, 2)
    outbox.turn_to(THERE)
    assert deliver(outbox, 1) == ["a"]
    outbox.turn_to(HERE)
    assert deliver(outbox, 1) == ["c"]
    outbox.turn_to(THERE)
    assert deliver(outbox, 2) == ["b", "c"]


def test_what_is_refused_is_kept_with_the_reason(outbox):
    outbox.append("tag", ["run", {"a": "b"}], {})
    outbox.append("close", ["run", "done"], {})
    outbox.refuse(outbox.next(), "no such run")
    assert outbox.next().call == "close"
    deliver(outbox, 1)
    outbox.close()
    (line,) = outbox.refused_file.read_text().splitlines()
    assert json.loads(line)["reason"] == "no such run"
    assert json.loads(line)["record"]["args"] == ["run", {"a": "b"}]


def test_a_full_disk_leaves_no_half_line(outbox):
    outbox.append("a", [], {})
    before = (outbox.folder / "records.jsonl").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 4, limits[1]))
    try:
        with pytest.raises(OSError, match="No space left"):
            outbox.append("b", [], {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (outbox.folder / "records.jsonl").read_bytes() == before
    outbox.append("c", [], {})
    assert deliver(outbox, 2) == ["a", "c"]
