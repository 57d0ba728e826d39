"""Shards, manifest and description: bytes, offsets and what is read back."""

import hashlib
import json
import tarfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds

from data.images import ShardImages
from data.shards import DATASET_FILE, Dataset, Encoded, read_manifest, write_manifest, write_split


def encoded(number: int, split: str = "train") -> Encoded:
    payload = np.random.default_rng(number).bytes(100 + 37 * number)
    return Encoded(
        f"{split}-{number:08d}", payload, number % 3, "abc"[number % 3], split, 6, 6, f"{number}.png"
    )


@pytest.mark.parametrize("num", [0, 1, 4, 8, 11], ids=lambda num: f"{num} images")
def test_shards_are_filled_in_order_and_none_is_empty(tmp_path, num):
    rows = write_split(tmp_path, "train", (encoded(number) for number in range(num)), 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"train-{n:05d}.tar" for n in range(-(-num // 4))
    ]
    assert [row["shard"] for row in rows] == [f"train-{number // 4:05d}.tar" for number in range(num)]
    assert [row["key"] for row in rows] == [encoded(number).key for number in range(num)]


def test_rows_point_at_the_payload(tmp_path):
    images = [replace(encoded(n), class_name="naïve 猫", source=f'it\'s ".." {n}.png') for n in range(6)]
    for image, row in zip(images, write_split(tmp_path, "train", images, 4), strict=True):
        stored = (tmp_path / row["shard"]).read_bytes()[row["offset"] :][: row["size"]]
        assert stored == image.payload
        assert hashlib.sha256(stored).hexdigest() == row["sha256"]
        facts = ("key", "label", "class_name", "split", "width", "height", "source", "suffix")
        assert all(row[name] == getattr(image, name) for name in facts)


def test_tar_members_carry_no_time_and_no_owner(tmp_path):
    write_split(tmp_path, "train", [encoded(0)], 4)
    with tarfile.open(tmp_path / "train-00000.tar") as tar:
        for member in tar:
            owner = (member.uid, member.gid, member.uname, member.gname)
            assert (member.mtime, owner) == (0, (0, 0, "", ""))


def test_webdataset_reads_images_and_labels(tmp_path):
    images = [encoded(number) for number in range(6)]
    write_split(tmp_path, "train", images, 4)
    urls = sorted(str(path) for path in tmp_path.iterdir())
    read = list(wds.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in read] == [image.key for image in images]
    assert [sample["png"] for sample in read] == [image.payload for image in images]
    assert [int(sample["cls"]) for sample in read] == [image.label for image in images]


def test_manifest_is_read_back_by_split_in_order(tmp_path):
    rows = write_split(tmp_path, "train", [encoded(number) for number in range(5)], 4)
    rows += write_split(tmp_path, "test", [encoded(number, "test") for number in range(3)], 4)
    write_manifest(tmp_path, rows)
    assert read_manifest(tmp_path).to_pylist() == rows
    assert read_manifest(tmp_path, "train").to_pylist() == rows[:5]
    assert read_manifest(tmp_path, "test").to_pylist() == rows[5:]
    assert read_manifest(tmp_path, "other").num_rows == 0


@pytest.mark.parametrize(
    "change",
    [{"label": 2}, {"key": "train-00000009"}, {"split": "test"}, {"payload": b"other"}],
    ids=lambda change: next(iter(change)),
)
def test_digest_covers_keys_labels_splits_and_contents(tmp_path, change):
    digests = [
        write_manifest(tmp_path, write_split(tmp_path, "train", [image, encoded(1)], 4))
        for image in (encoded(0), encoded(0), replace(encoded(0), **change))
    ]
    assert digests[0] == digests[1] != digests[2]
    fewer = write_split(tmp_path, "train", [encoded(0)], 4)
    assert write_manifest(tmp_path, fewer) != digests[0]


def test_description_is_read_back(tmp_path):
    dataset = Dataset(
        channels=3,
        image_size=32,
        classes=["naïve 猫", 'a "quoted" dog'],
        counts={"train": 5, "test": 1},
        class_counts={"naïve 猫": 6},
        mean=[0.1, 0.2, 0.3],
        std=[1.0, 0.5, 0.25],
        rejected=[{"source": "it's/猫.png", "reason": "cut short"}],
        sha256="0" * 64,
    )
    dataset.write(tmp_path)
    assert Dataset.read(tmp_path) == dataset
    assert json.loads((tmp_path / DATASET_FILE).read_bytes())["classes"] == dataset.classes


@pytest.mark.parametrize("name", ["/etc/hostname", "../other/train-00000.tar", "a/../../b.tar"])
def test_a_manifest_cannot_lead_out_of_its_folder(own_shards, name):
    table = read_manifest(own_shards.folder)
    column = pa.array([name] * len(table))
    table = table.set_column(table.schema.get_field_index("shard"), "shard", column)
    pq.write_table(table, own_shards.folder / "manifest.parquet")
    with pytest.raises(ValueError, match="outside its folder"):
        ShardImages(own_shards.folder, "train")
