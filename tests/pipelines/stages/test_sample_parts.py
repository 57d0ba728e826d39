"""Parts of the samples: how they are divided, and that an artifact made again is the same."""

import pytest
from safetensors.torch import load_file

from pipelines.stages.parts import Parts
from pipelines.stages.sample_parts import CLOCK, SHARD, Layout, SampleMaker
from tests.support.stages import make_context


@pytest.mark.parametrize(
    ("num", "batch_size", "batches"),
    [(1100, 100, [5, 5, 1]), (500, 100, [5]), (10, 600, [1]), (1201, 600, [1, 1, 1])],
)
def test_parts_are_of_whole_batches(num, batch_size, batches):
    layout = Layout(num, batch_size)
    numbers = [layout.batches(number) for number in range(layout.num_parts)]
    assert [len(own) for own in numbers] == batches
    assert [number for own in numbers for number in own] == list(range(sum(batches)))
    assert layout.num_made == sum(batches) * batch_size


def test_part_that_was_cut_short_is_made_again_and_the_others_are_kept(inputs, tmp_path):
    changes = ("sample.num_samples=1100", "sample.step_candidates=[]", "sample.steps=1")
    context, layout = make_context(tmp_path, inputs, *changes), Layout(1100, 20)

    def make():
        return Parts(context, SampleMaker).make(SampleMaker.final, 3, "parts", layout, 1)

    parts = make()
    whole = {file.name: file.read_bytes() for file in parts[0].folder.iterdir()}
    kept = parts[0].tensors.stat().st_mtime_ns
    parts[1].tensors.write_bytes(b"half a part")
    parts[2].record.unlink()
    parts[2].beside(SHARD).write_bytes(b"half a shard")
    make()
    assert parts[0].tensors.stat().st_mtime_ns == kept
    again = {file.name: file.read_bytes() for file in parts[0].folder.iterdir()}
    assert again.keys() == whole.keys()
    differ = {name for name in whole if again[name] != whole[name] and not name.endswith(CLOCK)}
    assert differ <= {"00001.json", "00002.json"}  # which name the size of the clock's file too
    assert [len(load_file(part.tensors)["pooled"]) for part in parts] == [500, 500, 100]


def test_finished_parts_stay_until_the_artifact_is_published(made):
    context, _ = made
    part = context.checkpoints / "final" / f"00000{SHARD}"
    assert part.samefile(context.folder / "samples-00000.tar")
