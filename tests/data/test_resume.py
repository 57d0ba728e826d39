"""A stream goes on exactly where it was: real processes, a real SIGKILL, one worker and two."""

import os
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data.batches import Stream, paired_views
from data.build import build
from data.images import Images, ShardImages, open_images
from data.part import Job
from data.shards import MANIFEST_FILE, SCHEMA, Dataset, read_manifest
from data.sources.base import folder_source
from data.sources.noise import NoiseImages
from data.stream import rank_part
from tests.support.running import ROOT

BATCH, STEPS = 8, 13  # of 40 training images: five batches an epoch, three images left over
AUGMENTS = {"squares": "crop4+flip+autoaugment+cutout16", "frames": "rrc+flip"}
WORKER = """
import hashlib, sys, time, torch
from pathlib import Path
from tests.data.test_resume import make_stream
torch.set_num_threads(1)
shards, augment, log = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
rank, world, first = map(int, sys.argv[4:7])
stream, labels, keys = make_stream(shards, augment, rank, world)
with log.open("a") as out:
    for step in range(first, 13):
        indices = stream.indices(step)
        pixels = stream.view(step, indices)
        digest = hashlib.sha256(pixels.contiguous().numpy().tobytes() + labels[indices].numpy().tobytes())
        out.write(f"{step} {digest.hexdigest()} {' '.join(keys[i] for i in indices)}\\n")
        out.flush()
        time.sleep(0.02)
"""


def make_stream(shards: Path, augment: str, rank: int, world: int) -> tuple[Stream, torch.Tensor, list[str]]:
    images, labels = open_images(shards, "train")
    keys = read_manifest(shards, "train", ["key"])["key"].to_pylist()
    return of(images, augment, rank_part(BATCH, rank, world)), labels, keys


def of(images: Images, augment: str, part: slice, name: str = "test") -> Stream:
    cpu = torch.device("cpu")
    return Stream.of(images, name, seed=5, batch_size=BATCH, augment=augment, part=part, device=cpu)


@pytest.fixture(params=["squares", "frames"])
def shards(request, tmp_path, write_images):
    names = [f"train/{own}/{n}.png" for own in "ab" for n in range(20)]
    images = write_images(tmp_path / "in", *names, "test/a/1.png", "test/b/1.png")
    changes = {"short_side": 40, "encoding": "jpg"} if request.param == "frames" else {}
    build(folder_source(images), tmp_path / "out", Job(3, 32, 0, 0.1, 0.0, shard_mb=0.05, **changes))
    return tmp_path / "out", AUGMENTS[request.param]


def start(shards: Path, augment: str, log: Path, rank: int, world: int, first: int = 0) -> subprocess.Popen:
    numbers = map(str, (rank, world, first))
    arguments = [str(shards), augment, str(log), *numbers]
    return subprocess.Popen([sys.executable, "-c", WORKER, *arguments], cwd=ROOT)


def lines(log: Path) -> dict[int, str]:
    text = log.read_text() if log.exists() else ""
    whole = text[: text.rfind("\n") + 1].splitlines()
    return {int(line.split(" ", 1)[0]): line.split(" ", 1)[1] for line in whole}


@pytest.mark.parametrize(("shards", "world"), [("squares", 1), ("frames", 2)], indirect=["shards"])
def test_killed_in_the_middle_of_an_epoch(shards, tmp_path, world):
    place, augment = shards
    whole = [tmp_path / f"whole-{rank}" for rank in range(world)]
    killed = [tmp_path / f"killed-{rank}" for rank in range(world)]
    for process in [start(place, augment, log, rank, world) for rank, log in enumerate(whole)]:
        assert process.wait() == 0
    running = [start(place, augment, log, rank, world) for rank, log in enumerate(killed)]
    deadline = time.monotonic() + 60
    while min(len(lines(log)) for log in killed) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    for process in running:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    last = min(max(lines(log)) for log in killed)
    assert 2 <= last < STEPS - 1
    for process in [start(place, augment, log, rank, world, last + 1) for rank, log in enumerate(killed)]:
        assert process.wait() == 0
    assert [lines(log) for log in killed] == [lines(log) for log in whole]


def test_worlds_see_the_same_global_batches(shards):
    place, augment = shards
    alone, labels, _ = make_stream(place, augment, 0, 1)
    pair = [make_stream(place, augment, rank, 2) for rank in range(2)]
    for step in (0, 4, 5, 11):
        indices = np.concatenate([stream.indices(step) for stream, _, _ in pair])
        assert np.array_equal(indices, alone.indices(step))
        parts = [stream.view(step, stream.indices(step)) for stream, _, _ in pair]
        assert torch.cat(parts).equal(alone.view(step, alone.indices(step)))
        assert sorted(labels[indices].unique().tolist()) == [0, 1]


@pytest.mark.parametrize("readers", [1, 2, 7])
def test_number_of_readers_does_not_matter(shards, readers):
    place, augment = shards
    one, some = (
        of(ShardImages(place, "train", num), augment, rank_part(BATCH, 0, 1)) for num in (1, readers)
    )
    assert all(
        one.view(step, one.indices(step)).equal(some.view(step, some.indices(step))) for step in (3, 8)
    )


def test_each_rank_gets_equal_batches_and_no_image_twice(shards):
    place, augment = shards
    streams = [make_stream(place, augment, rank, 4)[0] for rank in range(4)]
    seen = [index for step in range(5) for stream in streams for index in stream.indices(step).tolist()]
    assert len(seen) == len(set(seen)) == 40
    assert all(len(stream.indices(step)) == 2 for stream in streams for step in range(12))


def test_streams_of_other_names_are_independent(shards):
    images, _ = open_images(shards[0], "train")
    first, second = (of(images, shards[1], rank_part(BATCH, 0, 1), name) for name in ("classifier", "energy"))
    assert not np.array_equal(first.indices(0), second.indices(0))
    seeds = of(NoiseImages("noise-smooth", 1, 3, 32), "flip", rank_part(BATCH, 0, 1), "ood")
    before = seeds.view(7, seeds.indices(7))
    first.view(3, first.indices(3))
    assert seeds.view(7, seeds.indices(7)).equal(before)


def test_paired_views_are_those_of_each_stream(shards):
    place, augment = shards
    images, _ = open_images(place, "train")
    strong, weak = (
        of(images, augment, rank_part(BATCH, 0, 1), "strong"),
        of(images, "flip", rank_part(BATCH, 0, 1), "weak"),
    )
    indices = strong.indices(2)
    views = paired_views((strong, weak), 2, indices)
    assert views[0].equal(strong.view(2, indices))
    assert views[1].equal(weak.view(2, indices))


def test_in_the_middle_of_imagenet(tmp_path, write_images):
    """Image one million of 1.28 million, in 1,282 shards, of which only those of one batch are there."""
    num, per_shard, position = 1_281_167, 1000, 1_000_000
    one = tmp_path / "one"
    source = folder_source(write_images(tmp_path / "in", *(f"a/{n}.png" for n in range(4))))
    build(source, one, Job(3, 16, 0, 0.1, 0.0))
    (row,) = pq.read_table(one / MANIFEST_FILE).slice(0, 1).to_pylist()
    place = tmp_path / "many"
    place.mkdir()
    with pq.ParquetWriter(place / MANIFEST_FILE, SCHEMA) as writer:
        for start_ in range(0, num, per_shard):
            count = min(per_shard, num - start_)
            columns = {name: [row[name]] * count for name in SCHEMA.names}
            columns["shard"] = [f"train-{start_ // per_shard:05d}.tar"] * count
            columns["label"] = np.arange(start_, start_ + count)
            columns["sha256"] = [sha256(b"%d" % index).hexdigest() for index in range(start_, start_ + count)]
            writer.write_table(pa.table(columns, schema=SCHEMA))
    Dataset(3, 16, ["a"], whole=True, sha256="many").write(place)
    images, labels = open_images(place, "train")
    assert isinstance(images, ShardImages)
    stream, step = of(images, "flip", rank_part(BATCH, 0, 1)), position // BATCH
    indices = stream.indices(step)
    assert labels[indices].tolist() == indices.tolist()
    for index in indices:
        (place / f"train-{index // per_shard:05d}.tar").symlink_to(one / row["shard"])
    fresh = of(ShardImages(place, "train"), "flip", rank_part(BATCH, 0, 1))
    assert fresh.view(step, fresh.indices(step)).equal(stream.view(step, indices))
    with pytest.raises(FileNotFoundError):
        stream.view(step + 1, stream.indices(step + 1))
