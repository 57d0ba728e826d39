"""Streams of batches: the same for any number of workers and readers, and from any step on."""

from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data.batches import paired_views
from data.build import build
from data.images import ShardImages, open_images
from data.part import Job
from data.shards import MANIFEST_FILE, SCHEMA, Dataset
from data.sources.base import folder_source
from data.sources.noise import NoiseImages
from data.stream import rank_part
from tests.support.streams import BATCH, make_stream, of, write_stream_shards

AUGMENTS = {"squares": "crop4+flip+autoaugment+cutout16", "frames": "rrc+flip"}


@pytest.fixture(scope="module", params=["squares", "frames"])
def shards(request, tmp_path_factory):
    """40 training images as squares or whole frames, with an augmentation for them. Not to be changed."""
    place = tmp_path_factory.mktemp("stream")
    return write_stream_shards(place, request.param), AUGMENTS[request.param]


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


def test_number_of_readers_does_not_matter(shards):
    place, augment = shards
    one, some = (of(ShardImages(place, "train", num), augment, rank_part(BATCH, 0, 1)) for num in (1, 7))
    assert all(
        one.view(step, one.indices(step)).equal(some.view(step, some.indices(step))) for step in (3, 8)
    )


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


@pytest.mark.slow
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
