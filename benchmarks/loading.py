"""Shards and streams against what people would use instead, and against bare loops without any framework.

    python benchmarks/loading.py               all of it: about 6 minutes on 2 cores
    python benchmarks/loading.py small large   some of: small, large, prepare, memory, first

small: 32 px images in memory against torchvision's ImageFolder and DataLoader. large: 256 px JPEGs against
the same, and against loops that only decode. prepare: shards against a loop that decodes, resizes, encodes.
memory: of preparing ten thousand images and a hundred thousand. first: seconds to the first batch of 1.28
million images, from the start and in the middle. Variants take turns, at equal processes or threads; medians.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms as T
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_jpeg

from data.batches import Stream, paired_views
from data.build import build, over_processes
from data.images import ShardImages, open_images
from data.part import Job
from data.shards import MANIFEST_FILE, SCHEMA, Dataset
from data.sources.base import folder_source
from data.sources.named import photographs_source
from data.stream import Ahead, rank_part

ROUNDS, BATCH = 5, 128
PARTS = ("small", "large", "prepare", "memory", "first")
MANY, PER_SHARD = 1_281_167, 1000  # ImageNet's training images, in 1,282 shards
_FIRST = count(step=1000)
Rates = dict[str, Callable[[], int]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; none: all")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.processes)
    print(f"{options.processes} processes or threads, medians of {ROUNDS} interleaved rounds")
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts or PARTS:
            globals()[part](Path(folder), options.processes)


def small(folder: Path, processes: int) -> None:
    images = make_pictures(folder / "small", 10_000, (32, 32), quality=75)
    build(folder_source(images), folder / "small-shards", job(32), spread=over_processes(processes))
    opened, _ = open_images(folder / "small-shards", "train")
    crop_flip = [T.RandomCrop(32, padding=4), T.RandomHorizontalFlip()]
    strong = [*crop_flip, T.AutoAugment(T.AutoAugmentPolicy.CIFAR10), T.PILToTensor(), T.RandomErasing(1.0)]
    for words, slow in (
        ("crop4+flip", [*crop_flip, T.PILToTensor()]),
        ("crop4+flip+autoaugment+cutout16", strong),
    ):
        table(
            f"32 px, {words}",
            {
                "ImageFolder + DataLoader": loader(images, slow, processes),
                "stream in memory (ours)": partial(pull, stream(opened, words), 150),
            },
        )


def large(folder: Path, processes: int) -> None:
    images = make_photographs(folder / "large", 1000)
    dataset_job = job(256, short_side=256, encoding="jpg")
    build(folder_source(images), folder / "large-shards", dataset_job, spread=over_processes(processes))
    shards = ShardImages(folder / "large-shards", "train", readers=processes)
    payloads = [payload_of(shards, index) for index in range(len(shards))]
    random = [T.RandomResizedCrop(256), T.RandomHorizontalFlip(), T.PILToTensor()]
    test_view = [T.Resize(292, T.InterpolationMode.BICUBIC), T.CenterCrop(256), T.PILToTensor()]
    table(
        "256 px JPEG, random resized crop + flip",
        {
            "ImageFolder + DataLoader": loader(images, random, processes),
            "shards (ours)": partial(pull, stream(shards, "rrc+flip"), 6),
            "bare decoding, Pillow": partial(decode_all, payloads, pillow_pixels, processes),
            "bare decoding, torchvision": partial(decode_all, payloads, torch_pixels, processes),
        },
    )
    table(
        "256 px JPEG, test view + flip",
        {
            "ImageFolder + DataLoader": loader(images, test_view, processes),
            "shards (ours)": partial(pull, stream(shards, "flip"), 6),
        },
    )
    streams = stream(shards, "rrc+flip"), stream(shards, "flip")
    table(
        "256 px JPEG, both terms of stage 2",
        {
            "two independent streams (published)": partial(pull_both, streams, 6),
            "data.paired_views=true": partial(pull_pairs, streams, 6),
        },
    )


def prepare(folder: Path, processes: int) -> None:
    images = make_photographs(folder / "raw", 2000, side=400)
    source, paths = folder_source(images), sorted(images.rglob("*.jpg"))
    numbers = iter(range(100))

    def ours() -> int:
        out = folder / f"prepared-{next(numbers)}"
        build(source, out, job(256, encoding="jpg", shard_mb=5), spread=over_processes(processes))
        return len(paths)

    def bare() -> int:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            return sum(pool.map(bare_encode, paths, chunksize=100))

    table(
        "preparing 256 px JPEGs from 400 px ones", {"decode + resize + encode": bare, "shards (ours)": ours}
    )


def memory(folder: Path, processes: int) -> None:
    print("\nmemory of preparing 8 px images, one process: most resident, and above an empty run")
    base = peak_of("pass")
    for num in (10_000, 100_000):
        images = make_pictures(folder / f"memory-{num}", num, (8, 8), quality=75)
        code = (
            "from pathlib import Path; from data.build import build; from data.part import Job;"
            f"from data.sources.base import folder_source; images = folder_source({str(images)!r});"
            f"build(images, Path({str(folder / f'out-{num}')!r}), Job(3, 8, 0, 0.1, 0.0))"
        )
        peak = peak_of(code)
        print(f"  {num:>7,} images{peak:>10.0f} MB{peak - base:>10.0f} MB")


def first(folder: Path, processes: int) -> None:
    place = make_manifest(folder / "many")
    print(
        f"\nfirst batch of {MANY:,} images in {-(-MANY // PER_SHARD):,} shards, each in a process of its own"
    )
    for position in (0, 1_000_000):
        taken = [float(fresh("first_batch", place, position)) for _ in range(ROUNDS)]
        print(f"  from image {position:>9,}{statistics.median(taken):>10.2f} s after the imports")


def first_batch(place: str, position: str) -> None:
    started = time.perf_counter()
    images, _ = open_images(Path(place), "train")
    reader = stream(images, "rrc+flip", batch_size=512)
    step = int(position) // 512
    assert reader.view(step, reader.indices(step)).shape == (512, 3, 256, 256)
    print(time.perf_counter() - started)


def job(size: int, **changes: object) -> Job:
    plain = {"channels": 3, "image_size": size, "seed": 0, "test_fraction": 0.05, "max_bad_fraction": 0.0}
    return Job(**{**plain, **changes})  # type: ignore[arg-type]


def stream(images: object, augment: str, batch_size: int = BATCH) -> Stream:
    return Stream.of(
        images,  # type: ignore[arg-type]
        "benchmark",
        seed=0,
        batch_size=batch_size,
        augment=augment,
        part=rank_part(batch_size, 0, 1),
        device=torch.device("cpu"),
    )


def pull(reader: Stream, num_batches: int) -> int:
    """New batches each time, so that nothing is read twice in a row; made ahead as in training."""
    ahead = Ahead(lambda step: reader.view(step, reader.indices(step)), end=num_batches + next(_FIRST))
    return sum(len(ahead(step)) for step in range(ahead.end - num_batches, ahead.end))


def loader(folder: Path, steps: list[object], processes: int) -> Callable[[], int]:
    """One epoch with workers that are up: their start is not counted."""
    data = ImageFolder(str(folder), T.Compose(steps))
    batches = DataLoader(
        data,
        BATCH,
        shuffle=True,
        num_workers=processes,
        persistent_workers=True,
        multiprocessing_context="fork",
    )
    return lambda: sum(len(x) for x, _ in batches)


def pull_both(readers: tuple[Stream, Stream], num_batches: int) -> int:
    for step in range(num_batches):
        for reader, other in zip(readers, (0, 1), strict=True):
            reader.view(step, reader.indices(step + other))
    return num_batches * BATCH


def pull_pairs(readers: tuple[Stream, Stream], num_batches: int) -> int:
    for step in range(num_batches):
        paired_views(readers, step, readers[0].indices(step))
    return num_batches * BATCH


def payload_of(shards: ShardImages, index: int) -> bytes:
    with shards.folder.open(shards.names[shards.shard_of[index]]) as file:
        file.seek(int(shards.offsets[index]))
        return file.read(int(shards.sizes[index]))


def decode_all(payloads: list[bytes], decode: Callable[[bytes], object], threads: int) -> int:
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return sum(1 for _ in pool.map(decode, payloads))


def pillow_pixels(payload: bytes) -> object:
    return np.asarray(Image.open(io.BytesIO(payload)).convert("RGB"))


def torch_pixels(payload: bytes) -> object:
    return decode_jpeg(torch.frombuffer(bytearray(payload), dtype=torch.uint8), ImageReadMode.RGB)


def bare_encode(path: Path) -> int:
    image = Image.open(path).convert("RGB")
    image = image.resize((256, 256), Image.Resampling.BICUBIC, box=centre(image))
    image.save(io.BytesIO(), "JPEG", quality=95, subsampling=0)
    return 1


def centre(image: Image.Image) -> tuple[float, float, float, float]:
    side = min(image.size)
    left, upper = (image.width - side) / 2, (image.height - side) / 2
    return left, upper, left + side, upper + side


def table(title: str, variants: Rates) -> None:
    """Images a second, variants in turn; the first one is what the others are compared with."""
    for run in variants.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(ROUNDS):
        for name, run in variants.items():
            started = time.perf_counter()
            num = run()
            taken[name].append(num / (time.perf_counter() - started))
    rates = {name: statistics.median(values) for name, values in taken.items()}
    against = next(iter(rates.values()))
    print(f"\n{title:<42}{'images/s':>10}{'against':>10}")
    for name, rate in rates.items():
        print(f"  {name:<40}{rate:>10.0f}{rate / against:>9.2f}x", flush=True)


def make_pictures(folder: Path, num: int, size: tuple[int, int], quality: int) -> Path:
    """Smooth random pictures in ten class folders."""
    rng = np.random.default_rng(0)
    for number in range(num):
        path = folder / str(number % 10) / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(path, quality=quality)
    return folder


def make_photographs(folder: Path, num: int, side: int = 256) -> Path:
    """Crops of scikit-learn's photographs, each mirrored or not and cut anew, 4:3, in ten class folders."""
    rng = np.random.default_rng(0)
    items = photographs_source(10).items
    for number in range(num):
        path = folder / str(number % 10) / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        left, upper = rng.integers(0, 40, 2).tolist()
        image = items[number % len(items)].open()
        part = image.crop((left, upper, left + 170, upper + 128))
        part.resize((side * 4 // 3, side), Image.Resampling.BICUBIC).save(path, quality=90)
    return folder


def make_manifest(folder: Path) -> Path:
    """ImageNet's size with one photograph behind every entry: 1,282 names of one small shard."""
    source = folder / "one"
    build(folder_source(make_photographs(folder / "in", 2)), source, job(256, short_side=256, encoding="jpg"))
    (row,) = pq.read_table(source / MANIFEST_FILE).slice(0, 1).to_pylist()
    place = folder / "shards"
    place.mkdir()
    with pq.ParquetWriter(place / MANIFEST_FILE, SCHEMA) as writer:
        for shard, start in enumerate(range(0, MANY, PER_SHARD)):
            name, num = f"train-{shard:05d}.tar", min(PER_SHARD, MANY - start)
            (place / name).hardlink_to(source / row["shard"])
            numbers = np.arange(start, start + num)
            columns = {field: [row[field]] * num for field in SCHEMA.names}
            columns |= {"shard": [name] * num, "split": ["train"] * num, "label": numbers % 1000}
            columns |= {"key": [f"train-{n:08d}" for n in numbers], "sha256": [f"{n:064x}" for n in numbers]}
            writer.write_table(pa.table(columns, schema=SCHEMA))
    Dataset(3, 256, [str(n) for n in range(1000)], whole=True, sha256="many").write(place)
    return place


def fresh(function: str, *arguments: object) -> str:
    """What one of this file's functions prints in a process of its own."""
    code = f"import runpy, sys; runpy.run_path({__file__!r})[{function!r}](*sys.argv[1:])"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def peak_of(code: str) -> float:
    """MB that a process has resident at the most, its imports included."""
    after = "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    command = [sys.executable, "-c", f"from data import build, part, sources; {code}; {after}"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[1]) / 1000


if __name__ == "__main__":
    main()
