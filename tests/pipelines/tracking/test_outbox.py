"""Records on the disk: what they keep, in which order, and whose they are."""

import json
import resource

import numpy as np
import pytest

from pipelines.tracking.outbox import Outbox, others_at_work, outbox_folders, server_name
from pipelines.tracking.records import decode
from pipelines.tracking.run_names import RunNames, outbox_of
from pipelines.trial import Trial

HERE, THERE = "http://here", "http://there"


@pytest.fixture
def outbox(tmp_path) -> Outbox:
    return Outbox.new(tmp_path, HERE, "digits")


def _deliver(box: Outbox, num: int) -> list[str]:
    """Marks the next records as delivered; runs get the store's name and the record's number as their ids."""
    calls = []
    for _ in range(num):
        record = box.next()
        calls.append(record.call)
        box.mark(record, f"{box.server}/{record.number}")
    return calls


def _given(box: Outbox, *args: object) -> object:
    """What the tracker would be given of this."""
    record = box.append("call", args, {})
    line = (box.folder / "records.jsonl").read_text().splitlines()[record.number]
    return decode(json.loads(line)["args"], box.workdir, lambda text: text)


def test_arguments_come_back_as_they_were(outbox):
    trial = Trial("digits-1", "parent", 3, seed=None, rung=100)
    given = ["text", 3, 0.1, True, None, {"a": [1, 2]}, trial, {"loss": 1e-300}]
    assert _given(outbox, *given) == given
    assert _given(outbox, np.float32(0.5), np.int64(3), (1, "é")) == [0.5, 3, [1, "é"]]
    assert str(_given(outbox, float("nan"), float("inf"))) == "[nan, inf]"


def test_what_no_line_can_hold_is_refused_at_once(outbox):
    with pytest.raises(TypeError, match="cannot hold object"):
        outbox.append("call", [object()], {})
    assert outbox.count == 0


def test_files_of_artifacts_stay_there_and_others_are_copied(outbox, tmp_path):
    artifact, passing = tmp_path / "artifacts" / "sample" / "f" / "grid.png", tmp_path / "curves.png"
    artifact.parent.mkdir(parents=True)
    for path in (artifact, passing):
        path.write_bytes(b"picture")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"weights")
    kept, copied, folder = _given(outbox, [artifact, passing, tmp_path / "model"])[0]
    passing.unlink()
    assert kept == artifact
    assert (copied.name, copied.read_bytes()) == ("curves.png", b"picture")
    assert (folder.name, (folder / "weights").read_bytes()) == ("model", b"weights")
    assert copied.is_relative_to(outbox.folder)
    assert folder.is_relative_to(outbox.folder)


def test_secrets_are_not_written_down(outbox):
    outbox.append("tag", ["run", {"where": "https://me:planted@host/x?token=planted"}], {})
    box = Outbox.new(outbox.workdir, server_name(outbox.workdir, "http://me:planted@host"), "digits")
    written = [path.read_text() for path in outbox.workdir.rglob("*") if path.is_file()]
    assert "planted" not in "".join(written)
    assert box.home == "http://***@host"


def test_records_come_in_order_and_go_on_after_a_death(outbox):
    for call in "abcdef":
        outbox.append(call, [], {})
    assert _deliver(outbox, 2) == ["a", "b"]
    assert Outbox.left_behind(outbox.folder) is None  # its driver lives
    assert others_at_work(Outbox.new(outbox.workdir, HERE, "other"))
    outbox.close()
    with (outbox.folder / "records.jsonl").open("ab") as file:
        file.write(b'{"number": 6, "call": "cut o')  # as the process was killed
    box = Outbox.left_behind(outbox.folder)
    assert box is not None
    assert (box.pending, box.experiment) == (4, "digits")
    assert _deliver(box, 4) == ["c", "d", "e", "f"]
    box.close()
    assert outbox.folder not in outbox_folders(outbox.workdir)


def test_another_store_gets_all_of_it(outbox):
    for call in "abc":
        outbox.append(call, [], {})
    _deliver(outbox, 2)
    outbox.turn_to(THERE)
    assert _deliver(outbox, 1) == ["a"]
    outbox.turn_to(HERE)
    assert _deliver(outbox, 1) == ["c"]
    outbox.turn_to(THERE)
    assert _deliver(outbox, 2) == ["b", "c"]


def test_what_is_refused_is_kept_with_the_reason(outbox):
    outbox.append("tag", ["run", {"a": "b"}], {})
    outbox.append("close", ["run", "done"], {})
    outbox.refuse(outbox.next(), "no such run")
    assert outbox.next().call == "close"
    _deliver(outbox, 1)
    outbox.close()
    (line,) = outbox.refused_file.read_text().splitlines()
    assert json.loads(line)["reason"] == "no such run"
    assert json.loads(line)["record"]["args"] == ["run", {"a": "b"}]


def test_runs_are_known_by_every_name_that_they_have_had(outbox):
    name = outbox.append("open_parent", [], {}, opens_run=True).name
    root = outbox.folder.parent
    assert outbox_of(name) == outbox.folder.name
    assert outbox_of("0123456789abcdef") is None
    assert RunNames(root, HERE).real(name) == name
    _deliver(outbox, 1)
    assert RunNames(root, HERE).real(name) == "http://here/0"
    outbox.turn_to(THERE)
    _deliver(outbox, 1)
    there = RunNames(root, THERE)
    assert there.real(name) == there.real("http://here/0") == "http://there/0"
    assert there.real("another") == "another"


@pytest.mark.parametrize("heard", [True, False])
def test_names_outlive_their_outbox_where_somebody_has_heard_them(outbox, heard):
    name = outbox.append("open_parent", [], {}, opens_run=True).name
    _deliver(outbox, 1)
    outbox.close(named={name} if heard else ())
    assert not outbox.folder.exists()
    assert RunNames(outbox.folder.parent, HERE).knows(name) == heard


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
    assert _deliver(outbox, 2) == ["a", "c"]
