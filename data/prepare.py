"""Source to shards: what `python -m data.prepare SOURCE --out DIR --image-size N` and the stage both run."""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from data.decode import ENCODERS, UndecodableError, read_frame, read_square, to_pixels
from data.named import NAMED, PHOTOGRAPHS, open_source
from data.shards import Dataset, Encoded, write_manifest, write_split
from data.sources import Item, Source, SourceError

Progress = Callable[[int, int], None]
_SHARD_IMAGES = 10_000
_LARGEST = 4096  # pixels a side
_NAMES = f"a name ({', '.join((*sorted(NAMED), f'{PHOTOGRAPHS}-K'))})"


class BadImagesError(ValueError):
    """More images than allowed could not be decoded; the text lists the first of them."""


@dataclass(frozen=True)
class Job:
    """How a source becomes shards. Fractions are of each class (or of all, without labels).

    short_side: None stores squares of `image_size`; a number stores whole frames, their short side resized to
    it when it is longer. max_images: of each split, as evenly over the classes as they allow; None takes all.
    """

    channels: int
    image_size: int
    seed: int
    test_fraction: float
    max_bad_fraction: float
    split_names: tuple[str, str] = ("train", "test")
    short_side: int | None = None
    encoding: str = "png"
    max_images: int | None = None

    def read(self, item: Item) -> Image.Image:
        """Raises UndecodableError."""
        if self.short_side is None:
            return read_square(item.open, channels=self.channels, image_size=self.image_size)
        return read_frame(item.open, channels=self.channels, short_side=self.short_side)


def prepare(source: Source, folder: Path, job: Job, progress: Progress = lambda done, total: None) -> Dataset:
    """Decodes, resizes and writes every item of `source` into shards in an existing folder.

    Images that cannot be decoded are left out, counted and named in the dataset's `rejected`; more than
    `max_bad_fraction` of them raise BadImagesError. Same source and job, same bytes.
    """
    classes = source.classes
    dataset = Dataset(job.channels, job.image_size, classes, whole=job.short_side is not None)
    splits = _split_items(source.items, job)
    wanted = {split: min(len(members), job.max_images or len(members)) for split, members in splits.items()}
    total = sum(wanted.values())
    moments = _Moments(job.channels)
    rows, done = [], 0
    for split, members in splits.items():

        def encoded(members: list[Item] = members, split: str = split) -> Iterator[Encoded]:
            nonlocal done
            watched = moments if split == job.split_names[0] else None
            for image in islice(_encode(members, split, job, dataset, watched), wanted[split]):
                done += 1
                progress(done, total)
                yield image

        rows += write_split(folder, split, encoded(), _SHARD_IMAGES)
    _refuse_bad(dataset.rejected, len(source.items), job.max_bad_fraction)
    dataset.counts = dict(Counter(row["split"] for row in rows))
    dataset.class_counts = dict(sorted(Counter(row["class_name"] for row in rows).items()))
    dataset.mean, dataset.std = moments.mean_std()
    dataset.sha256 = write_manifest(folder, rows)
    dataset.write(folder)
    return dataset


def _assign_splits(items: Sequence[Item], job: Job) -> list[str]:
    """The item's own split, or a seeded one that takes `test_fraction` of each class (at least one image)."""
    first, second = job.split_names
    if any(item.split for item in items):
        own = {"train": first, "test": second}
        return [own.get(item.split or "", first) for item in items]
    splits = [first] * len(items)
    by_class: dict[str | None, list[int]] = {}
    for index, item in enumerate(items):
        by_class.setdefault(item.label, []).append(index)
    for number, label in enumerate(sorted(by_class, key=str)):
        members = by_class[label]
        rng = np.random.Generator(np.random.Philox(key=[job.seed, number]))
        num_test = min(len(members) - 1, max(1, round(job.test_fraction * len(members))))
        for index in rng.choice(members, size=max(0, num_test), replace=False):
            splits[index] = second
    return splits


def _split_items(items: Sequence[Item], job: Job) -> dict[str, list[Item]]:
    """Each split's items in a seeded order, so that a shard read in sequence does not go class by class.

    With `max_images` the first ones are spread evenly over the classes; what cannot be decoded is replaced.
    """
    own = _assign_splits(items, job)
    splits = {}
    for split in job.split_names:
        members = [item for item, its_split in zip(items, own, strict=True) if its_split == split]
        rng = np.random.Generator(np.random.Philox(key=[job.seed, 0]))
        shuffled = [members[index] for index in rng.permutation(len(members))]
        splits[split] = _evenly(shuffled) if job.max_images else shuffled
    return splits


def _evenly(items: list[Item]) -> list[Item]:
    """The first of each class, then the second of each, and so on."""
    seen: Counter[str | None] = Counter()
    ranks = []
    for item in items:
        ranks.append(seen[item.label])
        seen[item.label] += 1
    return [items[index] for index in sorted(range(len(items)), key=ranks.__getitem__)]


def _encode(
    members: list[Item], split: str, job: Job, dataset: Dataset, moments: "_Moments | None"
) -> Iterator[Encoded]:
    """Encoded images; those that cannot be decoded are noted in the dataset."""
    labels = {name: label for label, name in enumerate(dataset.classes)}
    for number, item in enumerate(members):
        try:
            image = job.read(item)
            payload = ENCODERS[job.encoding](image)
        except UndecodableError as error:
            dataset.rejected.append({"source": item.name, "reason": str(error)})
            continue
        if moments:
            moments.add(to_pixels(image))
        yield Encoded(
            key=f"{split}-{number:08d}",
            payload=payload,
            label=-1 if item.label is None else labels[item.label],
            class_name=item.label or "",
            split=split,
            width=image.width,
            height=image.height,
            source=item.name,
            suffix=job.encoding,
        )


def _refuse_bad(rejected: list[dict[str, str]], total: int, max_bad_fraction: float) -> None:
    if len(rejected) > max_bad_fraction * total:
        named = "; ".join(f"{bad['source']} ({bad['reason']})" for bad in rejected[:20])
        more = f"; and {len(rejected) - 20} more" if len(rejected) > 20 else ""
        raise BadImagesError(
            f"{len(rejected)} of {total} images cannot be decoded, more than "
            f"data.max_bad_fraction={max_bad_fraction:g} allows: {named}{more}"
        )


class _Moments:
    """Mean and standard deviation of each channel in pixel units of [0, 1], one image at a time."""

    def __init__(self, channels: int) -> None:
        self.count, self.total, self.squares = 0, np.zeros(channels), np.zeros(channels)

    def add(self, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
        values = pixels.reshape(len(pixels), -1).astype(np.float64) / 255
        self.count += values.shape[1]
        self.total += values.sum(axis=1)
        self.squares += np.square(values).sum(axis=1)

    def mean_std(self) -> tuple[list[float], list[float]]:
        if not self.count:
            return [], []
        mean = self.total / self.count
        std = np.sqrt(np.maximum(self.squares / self.count - mean**2, 1e-8))
        return [round(m, 6) for m in mean.tolist()], [round(s, 6) for s in std.tolist()]


def main(
    source: Annotated[str, typer.Argument(help=f"{_NAMES} or a folder of images")],
    out: Annotated[Path, typer.Option(help="new or empty folder for shards, manifest and dataset.json")],
    image_size: Annotated[
        int, typer.Option(help="short side after resizing, then centre-cropped to a square")
    ],
    channels: Annotated[int, typer.Option(help="3 for RGB, 1 for grey")] = 3,
    test_fraction: Annotated[
        float, typer.Option(help="held out of each class, unless the folder says")
    ] = 0.2,
    max_bad_fraction: Annotated[float, typer.Option(help="undecodable images tolerated")] = 0.01,
    root: Annotated[str, typer.Option(help="where named collections and relative paths start")] = ".",
    short_side: Annotated[
        int | None, typer.Option(help="keep whole images, a longer short side resized to this; no cropping")
    ] = None,
    encoding: Annotated[str, typer.Option(help="png (lossless) or jpg (quality 95)")] = "png",
    max_images: Annotated[int | None, typer.Option(help="of each split, evenly over the classes")] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="of the split and of the order within shards")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print the dataset's description as JSON")] = False,
) -> None:
    """Turn a collection of images into WebDataset shards with a Parquet manifest."""
    try:
        _check_options(out, channels, image_size, test_fraction)
        _check_storage(image_size, short_side, encoding, max_images)
        if not 0 <= max_bad_fraction <= 1:
            raise SourceError(f"--max-bad-fraction {max_bad_fraction}: must lie between 0 and 1")
        opened = open_source(source, root)
        job = Job(
            channels,
            image_size,
            seed,
            test_fraction,
            max_bad_fraction,
            short_side=short_side,
            encoding=encoding,
            max_images=max_images,
        )
        dataset = _prepare_whole(opened, out, job)
    except SourceError as error:
        typer.echo(f"error: {source}: {error}", err=True)
        raise typer.Exit(2) from error
    except BadImagesError as error:
        typer.echo(f"error: {source}: {error}", err=True)
        raise typer.Exit(1) from error
    for bad in dataset.rejected[:20]:
        typer.echo(f"left out: {bad['source']}: {bad['reason']}", err=True)
    summary = {"out": str(out), "counts": dataset.counts, "rejected": len(dataset.rejected)}
    counts = ", ".join(f"{count} {split}" for split, count in dataset.counts.items())
    typer.echo(
        json.dumps(summary) if as_json else f"{out}: {counts} images, {len(dataset.rejected)} rejected"
    )


def _check_options(out: Path, channels: int, image_size: int, test_fraction: float) -> None:
    if "://" in str(out) or ":/" in str(out):
        raise SourceError(f"--out {out}: object stores are not supported yet; give a folder")
    if channels not in (1, 3) or image_size < 1:
        raise SourceError("--channels must be 1 or 3 and --image-size at least 1")
    if image_size > _LARGEST:
        raise SourceError(f"--image-size {image_size}: must be at most {_LARGEST}")
    if not 0 < test_fraction < 1:
        raise SourceError(f"--test-fraction {test_fraction}: must lie between 0 and 1")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SourceError(f"--out {out} is not an empty folder; give a new one")


def _check_storage(image_size: int, short_side: int | None, encoding: str, max_images: int | None) -> None:
    if short_side is not None and short_side < image_size:
        raise SourceError(f"--short-side {short_side}: must be at least --image-size {image_size}")
    if encoding not in ENCODERS:
        raise SourceError(f"--encoding {encoding}: use {' or '.join(ENCODERS)}")
    if max_images is not None and max_images < 1:
        raise SourceError(f"--max-images {max_images}: must be at least 1; leave it out to take all")


def _prepare_whole(source: Source, out: Path, job: Job) -> Dataset:
    """The folder `out` appears when it is finished, or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        dataset = prepare(source, Path(temporary), job)
        if out.exists():
            out.rmdir()
        shutil.copytree(temporary, out)
    return dataset


if __name__ == "__main__":
    typer.run(main)
