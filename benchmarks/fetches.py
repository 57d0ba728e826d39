"""How often shards that lie in an object store are fetched for the start images of 50,000 samples.

    python benchmarks/fetches.py        50 shards of 1,000 images; 8 workers, whose tasks fetch for themselves

The order of the start images, the parts and what a task takes of them are the product's; no image is sampled.
"""

import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

import data.images
from data.decode import encode_png
from data.folders import LocalFolder
from data.images import ShardImages
from data.shards import MANIFEST_FILE, Dataset, Encoded, ManifestWriter, to_table, write_shard
from data.views import to_image
from pipelines.compute.spread import share
from pipelines.stages.sample_parts import Layout
from pipelines.stages.sampler import Seeds

SHARDS, EACH, WORKERS, BATCH, SIZE = 50, 1000, 8, 64, 8


class Counted(LocalFolder):
    """Counts the files that are opened."""

    num = 0

    def open(self, name: str) -> BinaryIO:
        Counted.num += 1
        return super().open(name)


def encoded(shard: int) -> Iterator[Encoded]:
    rng = np.random.default_rng(shard)
    for number in range(EACH):
        pixels = rng.integers(0, 256, (1, SIZE, SIZE), dtype=np.uint8)
        png = encode_png(to_image(data.images.torch.from_numpy(pixels)))
        yield Encoded(f"{shard:05d}-{number:05d}", png, -1, "", "ood-test", SIZE, SIZE, "")


def write(folder: Path) -> None:
    with (folder / MANIFEST_FILE).open("wb") as file:
        manifest = ManifestWriter(file)
        for shard in range(SHARDS):
            name = f"ood-test-{shard:05d}.tar"
            with (folder / name).open("wb") as out:
                manifest.add(to_table(list(write_shard(out, name, encoded(shard)))))
        sha256 = manifest.close()
    Dataset(1, SIZE, [], counts={"ood-test": SHARDS * EACH}, sha256=sha256).write(folder)


def fetched(folder: Path, num: int) -> int:
    """Files that all tasks together open."""
    layout = Layout(num, BATCH)
    waiting, before = deque(range(layout.num_parts)), Counted.num
    while waiting:
        own = share(waiting, WORKERS)
        images = ShardImages(folder, "ood-test")  # in a process of its own
        seeds = Seeds.__new__(Seeds)
        seeds.images, seeds.num_classes, seeds.order_seed, seeds.reserved = {"final": images}, 1000, 0, 0
        indices = seeds.indices("final", num, layout.num_made)
        for part in own:
            for batch in layout.batches(part):
                images.get(indices[batch * BATCH : (batch + 1) * BATCH])
    return Counted.num - before


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="fetches-") as name:
        folder = Path(name)
        write(folder)
        data.images.shards_of = lambda place, dataset: Counted(folder)
        data.images.LocalFolder = type("Here", (), {})  # no folder is on this machine's disk
        num = fetched(folder, SHARDS * EACH)
    print(f"{num:,} fetches of {SHARDS} shards for {SHARDS * EACH:,} samples: {num / SHARDS:.2f} each")


if __name__ == "__main__":
    main()
