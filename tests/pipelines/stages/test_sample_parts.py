"""Parts of the samples that are lost or damaged are made again."""

import pytest
from safetensors.torch import load_file

from pipelines.stages.sample_parts import Makers, parts_of
from tests.support.stages import make_context


@pytest.mark.parametrize("lost", ["shard", "rows", "shortened shard"])
def test_part_whose_shard_is_lost_or_shortened_is_missing(inputs, tmp_path, lost):
    changes = ("sample.num_samples=600", "sample.step_candidates=[]", "sample.steps=1")
    parts = Makers(make_context(tmp_path, inputs, *changes)).make("final", 1)
    assert parts.missing() == []
    if lost == "shortened shard":
        parts.shard(1).write_bytes(parts.shard(1).read_bytes()[:1000])
    else:
        (parts.rows(1) if lost == "rows" else parts.shard(1)).unlink()
    assert parts.missing() == [1]


def test_part_that_was_cut_short_is_made_again_and_the_others_are_kept(inputs, tmp_path):
    changes = ("sample.num_samples=1100", "sample.step_candidates=[]", "sample.steps=1")
    context = make_context(tmp_path, inputs, *changes)
    parts = Makers(context).make("final", 1)
    assert len(parts) == 3
    whole = {file.name: file.read_bytes() for file in parts.folder.iterdir()}
    kept = parts.tensors(0).stat().st_mtime_ns
    parts.tensors(1).write_bytes(b"half a part")
    parts.tensors(2).unlink()
    parts.shard(2).write_bytes(b"half a shard")
    assert parts.missing() == [1, 2]
    Makers(context).make("final", 1)
    assert parts.tensors(0).stat().st_mtime_ns == kept
    again = {file.name: file.read_bytes() for file in parts.folder.iterdir()}
    assert again.keys() == whole.keys()
    for name in whole:  # an artifact made again is the same: seconds differ, and do not go into it
        assert again[name] == whole[name] or name.endswith(".seconds.json")
    for number in range(3):
        stored = load_file(parts.tensors(number))
        assert len(stored["pooled"]) == (500, 500, 100)[number]


def test_finished_parts_stay_until_the_artifact_is_published(made):
    context, _ = made
    parts = parts_of(context, "final")
    assert parts.missing() == []
    assert parts.shard(0).samefile(context.folder / "samples-00000.tar")
