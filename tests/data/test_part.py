"""One shard: pixels and rows as its source has them, bad images by name, damage written again."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from data.build import build
from data.decode import decode_pixels
from data.folders import PARTS
from data.shards import Dataset
from data.sources.base import folder_source
from tests.support.data_files import contents, flip_bit, job, picture, plain_source, rows


@pytest.mark.parametrize(
    "damage", ["shard cut", "shard lost", "shard flipped", "part cut", "part lost", "part flipped"]
)
def test_a_shard_that_is_not_whole_is_written_again(tmp_path, damage):
    pets, few = plain_source({"a": 12, "b": 12}), job(shard_mb=0.007)
    build(pets, tmp_path / "whole", few)

    def ends(tasks):
        yield from (task.make() for task in tasks)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(pets, tmp_path / "out", few, spread=ends)
    kind, what = damage.split()
    name = "train-00001.tar"
    file = tmp_path / "out" / (name if kind == "shard" else f"{PARTS}/{name}.parquet")
    if what == "lost":
        file.unlink()
    elif what == "flipped":
        flip_bit(file, file.stat().st_size // 2)
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    build(pets, tmp_path / "out", few)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_manifest_points_at_the_pixels_of_its_source(tmp_path):
    source = plain_source({"a": 6, "b": 6})
    build(source, tmp_path, job())
    pictures = {item.name: np.asarray(item.open()).transpose(2, 0, 1) for item in source.items}
    for row in rows(tmp_path):
        payload = (tmp_path / row["shard"]).read_bytes()[row["offset"] :][: row["size"]]
        assert hashlib.sha256(payload).hexdigest() == row["sha256"]
        assert np.array_equal(decode_pixels(payload), pictures[row["source"]])
        assert (row["width"], row["height"]) == (4, 4)


def test_whole_frames_are_the_pictures_themselves(tmp_path, write_images):
    images = write_images(tmp_path / "in", "a/1.png", "a/2.png", "b/1.png", "b/2.png")
    assert build(folder_source(images), tmp_path / "out", job(short_side=5)).whole
    for row in rows(tmp_path / "out"):
        payload = (tmp_path / "out" / row["shard"]).read_bytes()[row["offset"] :][: row["size"]]
        picture = np.asarray(Image.open(images / row["source"])).transpose(2, 0, 1)
        assert np.array_equal(decode_pixels(payload), picture)
        assert (row["width"], row["height"], row["suffix"]) == (7, 5, "png")


def test_frames_too_long_for_jpeg_are_left_out(tmp_path, write_images):
    images = write_images(tmp_path / "in", *(f"a/{n}.png" for n in range(9)))
    Image.new("RGB", (65_501, 4)).save(images / "a" / "long.png")
    long = job(short_side=4, encoding="jpg", max_bad_fraction=0.1)
    (rejected,) = build(folder_source(images), tmp_path / "out", long).rejected
    assert rejected["source"] == "a/long.png"
    assert "65,500" in rejected["reason"]


BAD_FILES = {"text": b"no image at all", "empty": b"", "cut short": picture(0, (64, 64))[:2000]}


def test_bad_images_are_counted_and_named(tmp_path, write_images):
    images = write_images(tmp_path / "in", *(f"a/{number}.png" for number in range(9)))
    for name, payload in BAD_FILES.items():
        (images / "a" / f"it's {name}.png").write_bytes(payload)
    dataset = build(folder_source(images), tmp_path / "out", job(max_bad_fraction=0.5))
    assert {bad["source"] for bad in dataset.rejected} == {f"a/it's {name}.png" for name in BAD_FILES}
    assert all(bad["reason"] for bad in dataset.rejected)
    assert sum(dataset.counts.values()) == len(rows(tmp_path / "out")) == 9
    assert Dataset.read(tmp_path / "out").rejected == dataset.rejected
