"""WebDataset shards of other people, indexed and read where they lie."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from data.build import build
from data.check import find_damage
from data.images import open_images
from data.shards import read_manifest
from data.sources.base import SourceError
from data.sources.inplace import shards_source
from data.sources.named import open_source
from tests.support.data_files import flip_bit, job, message_of, picture, shown, write_tar
from tests.support.hostile_files import assert_refused
from tests.support.shards import make_shards

REFUSED = {
    "a deep label": "the label of 1 cannot be read",
    "classes that are no names": "classes are no list of names",
    "a deep description": "describes no shards",
    "a label of megabytes": "a name of 1,048,576 bytes",
}
JOB = job(image_size=16)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_words(hostile_sources, name):
    assert_refused(hostile_sources[name], REFUSED[name])


def test_labels_for_the_terminal_are_shown_escaped(hostile_sources):
    assert hostile_sources["labels for the terminal"].said == "2 images: 1 (a\\x1b[2J\\nb); 2 (\\ud800)"


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (lambda n: {"cls": str(n % 3).encode()}, ["0", "1", "2"]),
        (lambda n: {"cls": str(n).encode()}, [f"{n:02d}" for n in range(24)]),
        (lambda n: {"json": json.dumps({"label": "cat" if n % 2 else "dog"}).encode()}, ["cat", "dog"]),
        (lambda n: {"txt": b"a caption"}, []),
    ],
    ids=["cls", "wide numbers", "json", "none"],
)
def test_labels(tmp_path, label, expected):
    source = shards_source(make_shards(tmp_path, label))
    assert source.classes == expected
    assert len(source.items) == 24


def test_images_are_read_from_where_they_lie(tmp_path):
    shards = make_shards(tmp_path / "in")
    before = {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}
    dataset = build(shards_source(shards), tmp_path / "out", JOB)
    assert list(find_damage(tmp_path / "out")) == []
    assert {path.name: path.stat().st_mtime_ns for path in shards.iterdir()} == before
    assert not list((tmp_path / "out").glob("*.tar"))
    assert dataset.counts == {"train": 18, "test": 6}
    assert (dataset.whole, dataset.shards_at) == (True, str(shards))
    images, labels = open_images(tmp_path / "out", "train")
    rows = read_manifest(tmp_path / "out", "train").to_pylist()
    numbers = [int(row["key"].removeprefix("im_")) for row in rows]
    assert labels.tolist() == [n % 3 for n in numbers]
    whole = [lambda width, height: (2, 2, 18, 18)] * len(rows)
    for number, pixels in zip(numbers, images.get(range(len(rows)), whole), strict=True):
        expected = np.asarray(Image.open(io.BytesIO(picture(number, (24, 20)))))[2:18, 2:18]
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), expected)
    flip_bit(shards / rows[4]["shard"], rows[4]["offset"] + 30)
    (line,) = find_damage(tmp_path / "out")
    assert line.startswith(f"{rows[4]['key']}: ")


@pytest.mark.parametrize(
    ("name", "split"),
    [("train", "train"), ("imagenet-validation", "test"), ("my_test", "test"), ("latest", None)],
)
def test_split_is_a_word_of_the_shards_name(tmp_path, name, split):
    assert shards_source(make_shards(tmp_path, prefix=name)).splits == [split] * 24


def test_any_mode_and_orientation_and_none(tmp_path):
    """Undecodable images are left out and named."""
    exif, turned = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (40, 20), "red").save(turned, "JPEG", exif=exif)
    images = {f"{n}.png": picture(n, (24, 20)) for n in range(8)}
    images |= {"grey.png": picture(9, (24, 20), mode="L"), "turned.jpg": turned.getvalue(), "bad.png": b"x"}
    write_tar(tmp_path / "in" / "train.tar", images)
    tolerant = job(image_size=16, max_bad_fraction=0.5)
    dataset = build(shards_source(tmp_path / "in"), tmp_path / "out", tolerant)
    assert [bad["source"] for bad in dataset.rejected] == ["bad"]
    sizes = {row["key"]: (row["width"], row["height"]) for row in read_manifest(tmp_path / "out").to_pylist()}
    assert sizes["turned"] == (20, 40)
    images, _ = open_images(tmp_path / "out", "train")
    assert images.get(range(len(images))).shape == (10, 3, 16, 16)


def test_own_shards_keep_their_class_names(known_shards):
    source = shards_source(known_shards.folder)
    assert source.classes == ["a", "b", "c"]
    assert [item.split for item in source.items].count("test") == 5


@pytest.mark.parametrize(
    ("description", "told"),
    [
        ('{"channels": 3}', "describes no shards.*; move it away"),
        ("no json", "describes no shards.*; move it away"),
        ('{"channels":3,"image_size":4,"classes":["a"]}', "names 1 classes, a shard has label"),
    ],
)
def test_somebody_elses_description_is_refused(tmp_path, description, told):
    (make_shards(tmp_path) / "dataset.json").write_text(description)
    with pytest.raises(SourceError, match=told):
        _ = shards_source(tmp_path).items


def test_names_that_are_no_text_are_shown(tmp_path):
    write_tar(tmp_path / "x.tar", {"caf\udce9.png": picture(0)})
    assert [item.name for item in shards_source(tmp_path).items] == ["caf\\xe9"]


def test_squares_of_the_asked_size_are_seen_as_they_are(tmp_path):
    write_tar(tmp_path / "in" / "x.tar", {f"{n}.png": picture(n, (24, 24)) for n in range(6)})
    build(shards_source(tmp_path / "in"), tmp_path / "out", replace(JOB, image_size=24))
    images, _ = open_images(tmp_path / "out", "train")
    rows = read_manifest(tmp_path / "out", "train").to_pylist()
    for image, row in zip(images.get(range(len(images))), rows, strict=True):
        assert image.permute(1, 2, 0).numpy().tobytes() == shown(picture(int(row["key"]), (24, 24)))


def test_identity_follows_the_files(tmp_path):
    shards = make_shards(tmp_path)
    first = shards_source(shards).identity
    assert shards_source(shards).identity == first
    write_tar(shards / "shard-000003.tar", {"x.png": picture(0)})
    assert shards_source(shards).identity != first


@pytest.mark.parametrize("kept", [100, 700, 5000])
def test_cut_tar_is_named(tmp_path, kept):
    file = make_shards(tmp_path) / "shard-000001.tar"
    file.write_bytes(file.read_bytes()[:kept])
    assert "shard-000001.tar is truncated, damaged or no tar" in message_of(shards_source, tmp_path)


def test_unclear_shards_are_refused(tmp_path, write_images):
    write_tar(tmp_path / "train.tar", {"a.cls": b"1"})
    assert "without any image" in message_of(shards_source, tmp_path)
    make_shards(tmp_path, prefix="train")
    make_shards(tmp_path, prefix="extra")
    assert "extra-000000.tar" in message_of(shards_source, tmp_path)
    write_images(tmp_path, "cat/1.png")
    with pytest.raises(SourceError, match=r"holds \.tar files and images \(cat/1\.png"):
        open_source(str(tmp_path), ".")
