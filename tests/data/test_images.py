"""Prepared shards as indexable collections, held in memory or read by offset."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.build import build
from data.crops import CentreCrop, random_crop
from data.decode import crop_pixels
from data.images import MemoryImages, ShardImages, by_shard, crop_each, open_images
from data.shards import MANIFEST_FILE, Dataset, read_manifest
from data.sources.base import Item, Source
from data.views import decode_views
from tests.support.data_files import job, plain_source
from tests.support.pixels import smooth_image

KINDS = [MemoryImages, ShardImages]


def rewrite(shard: Path, select: Callable[[list[str]], list[str]]) -> None:
    """The shard with only the selected of its members, in the selected order."""
    content = io.BytesIO(shard.read_bytes())
    with tarfile.open(fileobj=content) as old, tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as new:
        for name in select(old.getnames()):
            new.addfile(old.getmember(name), old.extractfile(name))


@pytest.mark.parametrize(
    "indices",
    [range(11), [3], [10, 0, 7, 7, 2], np.array([5, 1], dtype=np.int64), range(10, -1, -3)],
    ids=["all", "one", "any order with repeats", "numpy", "range"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_written_in_the_asked_order(known_shards, kind, indices):
    images = kind(known_shards.folder, "train")
    assert len(images) == 11
    got = images.get(indices)
    assert got.dtype == torch.uint8
    assert np.array_equal(got.numpy(), known_shards.pixels["train"][np.asarray(indices)])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_given_out_may_be_changed(known_shards, kind):
    images, expected = kind(known_shards.folder, "test"), known_shards.pixels["test"][:2]
    images.get([0, 1]).zero_()
    images.get([0, 1], [random_crop(0), random_crop(1)]).zero_()
    one, other = images.get_views([0, 1], [None, None])
    one.zero_()
    assert np.array_equal(other.numpy(), expected)
    assert np.array_equal(images.get([0, 1]).numpy(), expected)


def test_cache_file_stays_as_it_is(own_shards):
    MemoryImages(own_shards.folder, "train")
    (file,) = own_shards.folder.glob(".train-*.pixels")
    before = file.read_bytes()
    MemoryImages(own_shards.folder, "train").pixels.zero_()
    assert file.read_bytes() == before
    assert not list(own_shards.folder.glob(".*.unfinished"))


def test_cache_is_of_this_dataset_alone(own_shards):
    """Other images of the same shape in the same folder."""
    before = MemoryImages(own_shards.folder, "train").pixels.clone()
    dataset = Dataset.read(own_shards.folder)
    (cache,) = own_shards.folder.glob(".train-*.pixels")
    cache.rename(cache.with_name(f".train-{'0' * 16}.pixels"))
    dataset.sha256 = "0" * 15 + "1" + dataset.sha256[16:]
    dataset.write(own_shards.folder)
    (own_shards.folder / f".train-{'0' * 16}.pixels").write_bytes(bytes(before.numel()))
    assert torch.equal(MemoryImages(own_shards.folder, "train").pixels, before)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_image_is_named(own_shards, kind):
    manifest = read_manifest(own_shards.folder, "train").to_pylist()
    with (own_shards.folder / manifest[2]["shard"]).open("r+b") as file:
        file.seek(manifest[2]["offset"])
        file.write(bytes(40))
    told = rf"{manifest[2]['key']} in .*/{manifest[2]['shard']}: damaged since it was prepared"
    with pytest.raises(ValueError, match=told):
        kind(own_shards.folder, "train").get([1, 2])
    assert not list(own_shards.folder.glob(".*.unfinished"))


@pytest.mark.parametrize("kind", KINDS)
def test_indices_may_be_none_and_end_with_the_split(known_shards, kind):
    images = kind(known_shards.folder, "test")
    assert len(images.get([])) == 0
    with pytest.raises(IndexError):
        images.get([5])


def test_what_is_not_there_is_named(known_shards, tmp_path):
    with pytest.raises(ValueError, match="has no split 'val'; it has train, test"):
        open_images(known_shards.folder, "val")
    with pytest.raises(FileNotFoundError, match="holds no finished shards; prepare some"):
        open_images(tmp_path, "train")


def test_test_view_is_pillows_whatever_the_size(tmp_path):
    """Also where its box consists of whole pixels, which training's crops have torch resize."""
    image = smooth_image(682, 512)
    source = Source("plain", "0", lambda: (Item("1", "a", "train", image.copy),))
    build(source, tmp_path, job(image_size=224, short_side=512))
    assert all(side == int(side) for side in CentreCrop(224)(682, 512))
    expected = crop_pixels(image, CentreCrop(224), 224)
    assert np.array_equal(ShardImages(tmp_path, "train").get([0])[0].numpy(), expected)


@pytest.mark.parametrize("name", ["it's a {1..3} naïve 猫", "50%20;a:b run #2 what?"])
@pytest.mark.parametrize("kind", KINDS)
def test_folder_with_a_strange_name(known_shards, tmp_path, kind, name):
    folder = tmp_path / name
    folder.symlink_to(known_shards.folder)
    assert np.array_equal(kind(folder, "test").get([4]).numpy(), known_shards.pixels["test"][4:])


@pytest.mark.parametrize(("limit", "kind"), [(16 * 108, MemoryImages), (10, ShardImages)])
def test_large_splits_are_not_kept_in_memory(own_shards, monkeypatch, limit, kind):
    monkeypatch.setattr("data.images._CACHE_LIMIT", limit)
    images, labels = open_images(own_shards.folder, "train")
    assert isinstance(images, kind)
    assert np.array_equal(images.get(range(11)).numpy(), own_shards.pixels["train"])
    assert labels.tolist() == own_shards.labels["train"]


@pytest.mark.parametrize("lost", ["", ".png"], ids=["image and label", "image alone"])
def test_missing_sample_is_an_error(own_shards, lost):
    gone = f"train-00000006{lost}"
    shard = own_shards.folder / "train-00001.tar"
    rewrite(shard, lambda names: [name for name in names if not name.startswith(gone)])
    with pytest.raises(ValueError, match="train"):
        MemoryImages(own_shards.folder, "train")
    assert len(MemoryImages(own_shards.folder, "test")) == 5


def test_images_are_placed_by_key_whatever_their_order_in_the_shard(own_shards):
    rewrite(own_shards.folder / "train-00000.tar", lambda names: names[::-1])
    images = MemoryImages(own_shards.folder, "train")
    assert np.array_equal(images.get(range(11)).numpy(), own_shards.pixels["train"])


@pytest.mark.parametrize("name", ["train-00002.tar", MANIFEST_FILE])
@pytest.mark.parametrize("kind", KINDS)
def test_missing_file_is_named(own_shards, kind, name):
    (own_shards.folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        kind(own_shards.folder, "train").get([0, 9])


def test_shard_images_read_nothing_but_what_is_asked_for(own_shards):
    (own_shards.folder / "train-00000.tar").unlink()
    images = ShardImages(own_shards.folder, "train")
    assert np.array_equal(images.get([4, 10]).numpy(), own_shards.pixels["train"][[4, 10]])


def test_every_worker_reads_the_whole_split(own_shards, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    images = MemoryImages(own_shards.folder, "train")
    assert np.array_equal(images.pixels.numpy(), own_shards.pixels["train"])


def test_whole_frames_are_seen_at_their_centre(known_frames):
    images, labels = open_images(known_frames.folder, "train")
    assert isinstance(images, ShardImages)
    assert labels.tolist() == [0, 1, 0, 1, 0, 1]
    expected = [decode_views(payload, [CentreCrop(16)], 16)[0] for payload in known_frames.payloads]
    assert torch.equal(images.get(range(6)), torch.stack(expected))


def test_test_view_of_a_whole_frame_by_hand(known_frames):
    image = Image.open(io.BytesIO(known_frames.payloads[4]))  # 18x18, and 16 * 256 / 224 is 18 rounded down
    expected = np.asarray(image)[1:17, 1:17].transpose(2, 0, 1)
    assert np.array_equal(ShardImages(known_frames.folder, "train").get([4])[0].numpy(), expected)


def test_each_whole_frame_gets_its_own_crop(known_frames):
    indices, crops = [5, 0, 3, 3], [random_crop(seed) for seed in range(4)]
    pairs = zip(indices, crops, strict=True)
    expected = [decode_views(known_frames.payloads[index], [crop], 16)[0] for index, crop in pairs]
    got = ShardImages(known_frames.folder, "train").get(indices, crops)
    assert torch.equal(got, torch.stack(expected))
    assert not torch.equal(got[2], got[3])


@pytest.mark.parametrize("kind", KINDS)
def test_each_square_gets_its_own_crop(known_shards, kind):
    indices, crops = [4, 0, 4], [random_crop(seed) for seed in range(3)]
    expected = crop_each(torch.from_numpy(known_shards.pixels["train"][indices]), crops)
    assert torch.equal(kind(known_shards.folder, "train").get(indices, crops), expected)


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_image_needs_its_own_crop(known_shards, kind, num):
    with pytest.raises(ValueError, match="give one for each"):
        kind(known_shards.folder, "test").get([0, 1], [random_crop(0)] * num)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
@pytest.mark.parametrize("short_side", [None, 8], ids=["squares", "frames"])
def test_jpegs_are_opened_in_every_shape(tmp_path, channels, short_side):
    images = job(channels=channels, test_fraction=0.5, short_side=short_side, encoding="jpg")
    build(plain_source({"a": 8}), tmp_path, images)
    images, labels = open_images(tmp_path, "train")
    assert images.get(range(4)).shape == (4, channels, 4, 4)
    assert images.get([1], [random_crop(0)]).shape == (1, channels, 4, 4)
    assert labels.tolist() == [0] * 4


@pytest.mark.parametrize(
    ("shards", "expected"),
    [
        (None, [7, 0, 5, 1, 6, 2]),
        (np.array([3, 3, 2]), [7, 6, 0, 1, 2, 5]),
        (np.array([8]), [7, 0, 5, 1, 6, 2]),
    ],
)
def test_indices_of_a_shard_follow_each_other(shards, expected):
    """In the order of each shard's first index; shards hold images 0 to 2, 3 to 5, 6 and 7."""
    assert by_shard(np.array([7, 0, 5, 1, 6, 2]), shards).tolist() == expected
