"""Collections on object stores: trees of images, and shards used in place."""

import pytest

from data.build import build
from data.folders import as_folder
from data.images import ShardImages
from data.shards import Dataset
from data.sources.base import SourceError, folder_source
from data.sources.inplace import shards_source
from data.sources.remote import remote_source
from tests.support.data_files import job, picture, pixels_of
from tests.support.shards import make_shards


@pytest.fixture
def address(bucket, monkeypatch):
    """The bucket's address without credentials. The environment holds them."""
    credentials, place = bucket.removeprefix("s3://").split("@")
    for name, value in zip(("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"), credentials.split(":"), strict=True):
        monkeypatch.setenv(f"AWS_{name}", value)
    return f"s3://{place}"


def test_shards_are_used_in_place(tmp_path, bucket, address):
    for file in make_shards(tmp_path / "in").iterdir():
        as_folder(bucket).write(file.name, file.read_bytes())
    with pytest.raises(SourceError, match="give the secrets in the environment"):
        shards_source(bucket)
    build(remote_source(address), tmp_path / "out", job(image_size=16))
    build(shards_source(tmp_path / "in"), tmp_path / "local", job(image_size=16))
    remote, local = (ShardImages(tmp_path / name, "train") for name in ("out", "local"))
    assert remote.get([5, 0]).equal(local.get([5, 0]))
    assert Dataset.read(tmp_path / "out").sha256 == Dataset.read(tmp_path / "local").sha256


def test_a_tree_of_images_is_as_on_a_disk(tmp_path, write_images, bucket, address):
    names = ["train/cat/1.png", "train/dog/2.png", "test/cat/3.png"]
    images = write_images(tmp_path / "in", *names)
    with pytest.raises(SourceError, match=r"holds no image and no \.tar; give a tree of images or shards"):
        remote_source(address)
    for name in names:
        as_folder(bucket).write(name, (images / name).read_bytes())
    remote, local = remote_source(address), folder_source(images)
    for ours, theirs in zip(remote.items, local.items, strict=True):
        assert (ours.name, ours.label, ours.split) == (theirs.name, theirs.label, theirs.split)
        assert pixels_of(ours) == pixels_of(theirs)
    before = remote.identity
    as_folder(bucket).write(names[0], picture(9, (20, 20)))
    assert remote_source(address).identity != before


def test_addresses_that_cannot_be_read_are_refused_without_secrets(bucket):
    for place in (bucket.replace("bucket", "no-such"), "ftp://me:planted@host/x"):
        with pytest.raises(SourceError) as caught:
            remote_source(place)
        assert "planted" not in str(caught.value)
