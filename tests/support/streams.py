"""A stream over small shards, for tests that compare its batches between processes."""

from pathlib import Path

import torch

from data.batches import Stream
from data.build import build
from data.images import Images, open_images
from data.part import Job
from data.shards import read_manifest
from data.sources.base import folder_source
from data.stream import rank_part
from tests.support.data_files import write_images

BATCH = 8  # of 40 training images: five batches an epoch


def write_stream_shards(place: Path, kind: str) -> Path:
    """Shards of 40 training images as 'squares' or whole 'frames'."""
    names = [f"train/{own}/{n}.png" for own in "ab" for n in range(20)]
    images = write_images(place / "in", *names, "test/a/1.png", "test/b/1.png")
    changes = {"short_side": 40, "encoding": "jpg"} if kind == "frames" else {}
    build(folder_source(images), place / "out", Job(3, 32, 0, 0.1, 0.0, shard_mb=0.05, **changes))
    return place / "out"


def make_stream(shards: Path, augment: str, rank: int, world: int) -> tuple[Stream, torch.Tensor, list[str]]:
    images, labels = open_images(shards, "train")
    keys = read_manifest(shards, "train", ["key"])["key"].to_pylist()
    return of(images, augment, rank_part(BATCH, rank, world)), labels, keys


def of(images: Images, augment: str, part: slice, name: str = "test") -> Stream:
    cpu = torch.device("cpu")
    return Stream.of(images, name, seed=5, batch_size=BATCH, augment=augment, part=part, device=cpu)
