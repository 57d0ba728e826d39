"""WebDataset shards of other people, indexed and read where they lie."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.build import build
from data.check import find_damage
from data.folders import as_folder
from data.images import ShardImages, open_images
from data.part import Job
from data.shards import Dataset, read_manifest
from data.sources.base import SourceError, is_shards
from data.sources.inplace import shards_source
from data.sources.named import open_source

JOB = Job(3, 16, 0, 0.25, 0.0)


def picture(seed: int, size: tuple[int, int] = (24, 20), kind: str = "PNG", mode: str = "RGB") -> bytes:
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def write_tar(file: Path, members: dict[str, bytes]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def make_shards(folder: Path, label=lambda n: {"cls": str(n % 3).encode()}, prefix: str = "shard") -> Path:
    for shard in range(3):
        members = {}
        for n in range(shard * 8, shard * 8 + 8):
            members[f"im_{n:04d}.png"] = picture(n)
            members |= {f"im_{n:04d}.{kind}": content for kind, content in label(n).items()}
        write_tar(folder / f"{prefix}-{shard:06d}.tar", members)
    return folder


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
        expected = np.asarray(Image.open(io.BytesIO(picture(number))))[2:18, 2:18].transpose(2, 0, 1)
        assert np.array_equal(pixels.numpy(), expected)


@pytest.mark.parametrize("name", ["train", "imagenet-validation", "my_test"])
def test_split_is_in_the_shards_name(tmp_path, name):
    make_shards(tmp_path, prefix=name)
    make_shards(tmp_path, prefix="other-train")
    splits = shards_source(tmp_path).splits
    assert splits.count("test") == (0 if name == "train" else 24)
    assert splits.count("train") == 48 - splits.count("test")


def test_any_mode_and_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(buffer, "JPEG", exif=exif)
    others = {f"{n}.png": picture(n) for n in range(8)} | {f"{n}.cls": b"1" for n in range(8)}
    members = {
        "grey.png": picture(9, mode="L"),
        "grey.cls": b"0",
        "turned.jpg": buffer.getvalue(),
        "turned.cls": b"0",
    }
    write_tar(tmp_path / "in" / "train.tar", dict(sorted((members | others).items())))
    build(shards_source(tmp_path / "in"), tmp_path / "out", JOB)
    sizes = {row["key"]: (row["width"], row["height"]) for row in read_manifest(tmp_path / "out").to_pylist()}
    assert sizes["turned"] == (20, 40)
    images, _ = open_images(tmp_path / "out", "train")
    assert images.get(range(len(images))).shape == (10, 3, 16, 16)


def test_undecodable_ones_are_left_out_and_named(tmp_path):
    shards = make_shards(tmp_path / "in")
    write_tar(shards / "shard-000009.tar", {"bad.png": b"no image", "bad.cls": b"1"})
    dataset = build(shards_source(shards), tmp_path / "out", Job(3, 16, 0, 0.25, 0.5))
    assert [bad["source"] for bad in dataset.rejected] == ["bad"]
    assert sum(dataset.counts.values()) == 24


def test_own_shards_keep_their_class_names(known_shards):
    source = shards_source(known_shards.folder)
    assert source.classes == sorted(
        {"abc"[label] for labels in known_shards.labels.values() for label in labels}
    )
    assert [item.split for item in source.items].count("test") == 5


@pytest.mark.parametrize(
    "description", ['{"channels": 3}', "no json", '{"channels":3,"image_size":4,"classes":["a"]}']
)
def test_somebody_elses_description_is_refused(tmp_path, description):
    shards = make_shards(tmp_path / "in")
    (shards / "dataset.json").write_text(description)
    with pytest.raises(
        SourceError, match=r"describes no shards.*; move it away|names 1 classes, a shard has label"
    ):
        shards_source(shards).items  # noqa: B018


def test_names_that_are_no_text(tmp_path):
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "x.tar", "w", encoding="utf-8", errors="surrogateescape") as tar:
        member, payload = tarfile.TarInfo("caf\udce9.png"), picture(0)
        member.size = len(payload)
        tar.addfile(member, io.BytesIO(payload))
    (item,) = shards_source(tmp_path / "in").items
    assert item.name == "caf\\xe9"


def test_squares_of_the_asked_size_are_seen_as_they_are(tmp_path):
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in" / "x.tar", {f"{n}.png": picture(n, (24, 24)) for n in range(6)})
    build(shards_source(tmp_path / "in"), tmp_path / "out", replace(JOB, image_size=24))
    images, _ = open_images(tmp_path / "out", "train")
    rows = read_manifest(tmp_path / "out", "train").to_pylist()
    for image, row in zip(images.get(range(len(images))), rows, strict=True):
        expected = np.asarray(Image.open(io.BytesIO(picture(int(row["key"]), (24, 24)))).convert("RGB"))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_damage_is_found(tmp_path):
    shards = make_shards(tmp_path / "in")
    build(shards_source(shards), tmp_path / "out", JOB)
    assert list(find_damage(tmp_path / "out")) == []
    row = read_manifest(tmp_path / "out").to_pylist()[4]
    content = bytearray((shards / row["shard"]).read_bytes())
    content[row["offset"] + 30] ^= 1
    (shards / row["shard"]).write_bytes(content)
    (line,) = find_damage(tmp_path / "out")
    assert line.startswith(f"{row['key']}: ")


def test_identity_follows_the_files(tmp_path):
    shards = make_shards(tmp_path)
    first = shards_source(shards).identity
    assert shards_source(shards).identity == first
    write_tar(shards / "shard-000003.tar", {"x.png": picture(0)})
    assert shards_source(shards).identity != first


@pytest.mark.parametrize("kept", [100, 700, 5000])
def test_cut_tar_is_named(tmp_path, kept):
    shards = make_shards(tmp_path)
    file = shards / "shard-000001.tar"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(SourceError, match=r"shard-000001\.tar"):
        len(shards_source(shards).items)


def test_a_damaged_header_in_the_middle_is_no_end(tmp_path):
    shards = make_shards(tmp_path)
    file = shards / "shard-000001.tar"
    content = bytearray(file.read_bytes())
    with tarfile.open(file) as tar:
        content[tar.getmembers()[7].offset + 3] ^= 1
    file.write_bytes(content)
    with pytest.raises(SourceError, match=r"shard-000001\.tar is truncated, damaged or no tar"):
        len(shards_source(shards).items)


def test_on_an_object_store(tmp_path, bucket, monkeypatch):
    folder = as_folder(bucket)
    for file in make_shards(tmp_path / "in").iterdir():
        folder.write(file.name, file.read_bytes())
    with pytest.raises(SourceError, match="give the secrets in the environment"):
        shards_source(bucket)
    credentials, place = bucket.removeprefix("s3://").split("@")
    access, secret = credentials.split(":")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    build(shards_source(f"s3://{place}"), tmp_path / "out", JOB)
    build(shards_source(tmp_path / "in"), tmp_path / "local", JOB)
    remote, local = (ShardImages(tmp_path / name, "train") for name in ("out", "local"))
    assert remote.get([5, 0]).equal(local.get([5, 0]))
    assert Dataset.read(tmp_path / "out").sha256 == Dataset.read(tmp_path / "local").sha256


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.tar"], True),
        (["a.tar", "README.md"], True),
        (["a.tar", "cat/1.png"], False),
        (["1.png"], False),
        ([], False),
    ],
    ids=str,
)
def test_what_counts_as_shards(names, expected):
    assert is_shards(names) == expected


@pytest.mark.parametrize("name", ["latest", "interval", "constrained", "a"])
def test_words_within_others_are_no_splits(tmp_path, name):
    assert set(shards_source(make_shards(tmp_path, prefix=name)).splits) == {None}


def test_a_shard_without_a_split_beside_others_is_refused(tmp_path):
    make_shards(tmp_path, prefix="train")
    make_shards(tmp_path, prefix="extra")
    with pytest.raises(SourceError, match=r"extra-000000\.tar"):
        len(shards_source(tmp_path).items)


def test_shards_without_an_image_are_refused(tmp_path):
    write_tar(tmp_path / "train.tar", {"a.cls": b"1"})
    with pytest.raises(SourceError, match="without any image"):
        len(shards_source(tmp_path).items)


def test_tars_beside_a_tree_of_images_are_refused(tmp_path, write_images):
    make_shards(tmp_path)
    write_images(tmp_path, "cat/1.png")
    with pytest.raises(SourceError, match=r"holds \.tar files and images \(cat/1\.png"):
        open_source(str(tmp_path), ".")


@pytest.mark.parametrize("name", ["/etc/hostname", "../other/train-00000.tar", "a/../../b.tar"])
def test_a_manifest_cannot_lead_out_of_its_folder(own_shards, name):
    table = read_manifest(own_shards.folder)
    column = pa.array([name] * len(table))
    table = table.set_column(table.schema.get_field_index("shard"), "shard", column)
    pq.write_table(table, own_shards.folder / "manifest.parquet")
    with pytest.raises(ValueError, match="outside its folder"):
        ShardImages(own_shards.folder, "train")
