"""Arguments of tracking calls as JSON: what is kept, and what is copied."""

import json

import numpy as np

from pipelines.tracking.outbox import Outbox
from pipelines.tracking.records import decode
from pipelines.trial import Trial


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
