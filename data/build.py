"""A collection to shards: planned as a whole, written by any process, put together in order.

A shard is finished once its rows lie in `.parts/`; a build that was cut short goes on with the others. The
folder is a dataset once `dataset.json` is there, which is written last. Same source and job, same bytes,
whoever wrote them.
"""

import ctypes
import json
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from typing import Any

import numpy as np

from data.decode import ENCODERS, STORED_AS, UndecodableError
from data.folders import LOCK, PARTS, UNFINISHED, Folder, LocalFolder, Place, as_folder
from data.identical import Contents
from data.part import Histogram, Job, Part, ShardTask, read_part_rows
from data.shards import DATASET_FILE, MANIFEST_FILE, Dataset, ManifestWriter, shard_name, sides, stored_size
from data.sources.base import Source, SourceError
from data.splits import Indices, split_items

Progress = Callable[[int, int], None]
Spread = Callable[[Iterable[ShardTask]], Iterator[Part]]
SMALL = 2_000  # images that are done before other processes have started
_MOST_IMAGES = 10_000  # a shard, however small they are
_PDEATHSIG = 1  # of prctl: the signal that a process gets when its parent dies
_CERTAIN = 100  # undecodable images beyond those allowed that end a build at once
_LISTED = 20  # undecodable images by name
_TRIED = 32  # images whose size is taken as the mean
_JOB_FILE = f"{PARTS}/job.json"


class BadImagesError(ValueError):
    """More images than allowed could not be decoded; the text lists the first of them."""


def here(tasks: Iterable[ShardTask]) -> Iterator[Part]:
    """One shard after another in this process."""
    return (task.make() for task in tasks)


def over_processes(num: int) -> Spread:
    """Shards by `num` processes at once, in the order in which they are finished."""

    def spread(tasks: Iterable[ShardTask]) -> Iterator[Part]:
        remaining = iter(tasks)
        with ProcessPoolExecutor(num, get_context("spawn"), initializer=_follow_parent) as pool:
            running: set[Future[Part]] = set()
            while True:
                running |= {pool.submit(task.make) for task in islice(remaining, 2 * num - len(running))}
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()

    return spread


def _follow_parent() -> None:
    """A worker leaves Ctrl-C to its parent, and ends with it, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)


@dataclass
class _Built:
    """What is known so far of the images written."""

    parts: list[Part] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)
    done: int = 0

    def add(self, part: Part) -> None:
        self.parts.append(part)
        self.rejected += part.rejected
        self.done += part.num_images


def build(
    source: Source,
    place: Place,
    job: Job,
    *,
    spread: Spread = here,
    progress: Progress = lambda done, total: None,
) -> Dataset:
    """Decodes, resizes and writes every item of `source` into shards; goes on where it was cut short.

    Images that cannot be decoded are left out, counted and named in the dataset's `rejected`; more than
    `max_bad_fraction` of them raise BadImagesError. Raises SourceError when the folder holds something else.
    """
    out = as_folder(place)
    made_from = {"identity": source.identity, "job": job.essence()}
    finished = _finished(out, made_from)
    if finished is not None and out.size(_JOB_FILE) is None:
        return finished
    with out.held():
        finished = _finished(out, made_from)  # by another process meanwhile
        if finished is not None:
            _clear(out)
            return finished
        _claim(out, made_from)
        return _put_together(source, out, job, made_from, _write(source, out, job, spread, progress))


def _write(source: Source, out: Folder, job: Job, spread: Spread, progress: Progress) -> "_Built":
    """All shards. Raises BadImagesError, and SourceError when the collection was changed meanwhile."""
    plans = _plans(source, job)
    _refuse_full_disk(out, sum(plan.num_bytes for plan in plans))
    total = sum(plan.wanted for plan in plans)
    built = _Built()
    while any(plan.is_short for plan in plans):
        tasks = (task for plan in plans for task in plan.tasks(source, job, out))
        for part in spread(tasks):
            built.add(part)
            _refuse_bad(built.rejected, len(source.items), job.max_bad_fraction, beyond=_CERTAIN)
            progress(built.done, total)
        for plan in plans:
            plan.written = sum(part.num_images for part in built.parts if part.split == plan.split)
    _refuse_bad(built.rejected, len(source.items), job.max_bad_fraction)
    if source.reopen().identity != source.identity:
        raise SourceError(
            f"{source.name} was changed while it was read; {out.shown} may hold both states: "
            "remove it, and run again"
        )
    return built


def _finished(out: Folder, made_from: dict[str, Any]) -> Dataset | None:
    """The dataset that such a build has finished there. Raises SourceError where another one has."""
    if isinstance(out, LocalFolder) and out.path.exists() and not out.path.is_dir():
        raise SourceError(f"{out.shown} is a file; give a new folder")
    if out.size(DATASET_FILE) is None:
        return None
    dataset = Dataset.read(out)
    if dataset.made_from != made_from:
        raise SourceError(
            f"{out.shown} holds shards {_unlike(dataset.made_from, made_from)}; give a new folder"
        )
    return dataset


def _unlike(known: dict[str, Any], wanted: dict[str, Any]) -> str:
    """How the makings of two data sets differ."""
    if known.get("identity") != wanted["identity"]:
        return "of other images, or of others that they were then"
    job = known.get("job", {})
    return "of other " + ", ".join(name for name, value in wanted["job"].items() if job.get(name) != value)


def _claim(out: Folder, made_from: dict[str, Any]) -> None:
    """Marks the folder as this build's. Raises SourceError where it holds anything else."""
    text = json.dumps(made_from, sort_keys=True)
    _sweep(out)
    if out.size(_JOB_FILE) is None:
        if any(not name.endswith(UNFINISHED) for name in out.names()):
            raise SourceError(f"{out.shown} is not empty; give a new folder")
        out.write(_JOB_FILE, text.encode())
    elif out.read(_JOB_FILE).decode() != text:
        unlike = _unlike(json.loads(out.read(_JOB_FILE)), made_from)
        raise SourceError(f"{out.shown} holds unfinished shards {unlike}; give a new folder")


@dataclass
class _Plan:
    """A split's items in their order, and how far they have been dealt out to shards.

    With `max_images`, what cannot be decoded is made up for by further shards of those that come next.
    """

    split: str
    members: Indices
    wanted: int
    image_bytes: float  # of an image in a shard, about; 0: shards are used in place
    shard_images: int
    labels: dict[str, int]
    taken: int = 0
    shards: int = 0
    written: int = 0

    @property
    def num_bytes(self) -> float:
        return self.wanted * self.image_bytes

    @property
    def is_short(self) -> bool:
        return self.written < self.wanted and self.taken < len(self.members)

    def tasks(self, source: Source, job: Job, out: Folder) -> Iterator[ShardTask]:
        """As many shards as the images that are missing fill."""
        end = min(self.taken + self.wanted - self.written, len(self.members))
        if source.shards_at:  # read in the order in which they lie there
            self.members[self.taken : end].sort()
        while self.taken < end:
            chosen = self.members[self.taken : min(self.taken + self.shard_images, end)]
            items = tuple(source.items[index] for index in chosen)
            name = shard_name(self.split, self.shards)
            yield ShardTask(name, self.split, self.taken, items, self.labels, job, out)
            self.taken, self.shards = self.taken + len(chosen), self.shards + 1


def _plans(source: Source, job: Job) -> list[_Plan]:
    splits = split_items(
        source,
        names=job.split_names,
        seed=job.seed,
        test_fraction=job.test_fraction,
        evenly=job.max_images is not None,
    )
    labels = {name: label for label, name in enumerate(source.classes)}
    plans = []
    for split, members in splits.items():
        wanted = min(len(members), job.max_images or len(members))
        size = 0.0 if source.shards_at else _image_bytes(source, members, job)
        shard_images = int(max(1, min(_MOST_IMAGES, job.shard_mb * 1e6 // (size or 1))))
        plans.append(_Plan(split, members, wanted, size, shard_images, labels))
    return plans


def _image_bytes(source: Source, members: Indices, job: Job) -> float:
    """The mean size of the first images that can be decoded: known before, and the same each time."""
    sizes = []
    for index in members[:_TRIED]:
        try:
            sizes.append(stored_size(len(ENCODERS[job.encoding](job.read(source.items[index])))))
        except UndecodableError:
            continue
    return sum(sizes) / len(sizes) if sizes else 1.0


def _refuse_full_disk(out: Folder, num_bytes: float) -> None:
    if not isinstance(out, LocalFolder):
        return
    present = sum(out.size(name) or 0 for name in out.names())
    free = shutil.disk_usage(out.path).free
    if free < num_bytes - present:
        raise SourceError(
            f"{out.shown} has {free / 1e6:,.0f} MB free and the shards take about {num_bytes / 1e6:,.0f} MB; "
            "free some or use another disk"
        )


def _refuse_bad(rejected: list[dict[str, str]], total: int, max_bad_fraction: float, beyond: int = 0) -> None:
    """`beyond`: how many more there must be, so that a collection that is not quite right is listed whole."""
    if len(rejected) > max_bad_fraction * total + beyond:
        named = "; ".join(f"{bad['source']} ({bad['reason']})" for bad in rejected[:_LISTED])
        more = f"; and {len(rejected) - _LISTED} more" if len(rejected) > _LISTED else ""
        raise BadImagesError(
            f"{len(rejected)} of {total} images cannot be decoded, more than "
            f"data.max_bad_fraction={max_bad_fraction:g} allows: {named}{more}"
        )


def _put_together(source: Source, out: Folder, job: Job, made_from: dict[str, Any], built: _Built) -> Dataset:
    """The manifest from the parts, then the dataset's description: the commit point."""
    order = {split: place for place, split in enumerate(job.split_names)}
    parts = sorted(built.parts, key=lambda part: (order[part.split], part.name))
    counts: Counter[str] = Counter()
    class_counts: Counter[str] = Counter()
    contents = Contents()
    squares = True
    with out.new_file(MANIFEST_FILE) as file:
        manifest = ManifestWriter(file)
        for part in parts:
            rows = read_part_rows(out, part.name)
            manifest.add(rows)
            contents.add(rows)
            squares &= sides(rows) <= {job.image_size}
            counts[part.split] += part.num_images
            class_counts.update(rows["class_name"].to_pylist())
        digest = manifest.close()
    mean, std = _mean_std(sum(part.histogram for part in parts if part.split == job.split_names[0]))
    identical, num_identical = contents.find(lambda: (read_part_rows(out, part.name) for part in parts))
    dataset = Dataset(
        job.channels,
        job.image_size,
        source.classes,
        whole=job.short_side is not None or not squares,
        stored_as=STORED_AS[job.encoding] if not source.shards_at else "as found",
        counts={split: counts[split] for split in job.split_names if counts[split]},
        class_counts=dict(sorted(class_counts.items())),
        mean=mean,
        std=std,
        rejected=[bad for part in parts for bad in part.rejected],
        identical=identical,
        num_identical=num_identical,
        made_from=made_from,
        shards_at=source.shards_at,
        sha256=digest,
    )
    out.write(DATASET_FILE, dataset.to_bytes())
    _clear(out)
    return dataset


def _clear(out: Folder) -> None:
    """Takes away the parts, the job's name last: where it is, there may be others."""
    _sweep(out)
    for name in list(out.names()):
        if name.startswith(f"{PARTS}/") and name != _JOB_FILE:
            out.remove(name)
    out.remove(_JOB_FILE)
    if isinstance(out, LocalFolder):
        (out.path / PARTS).rmdir()


def _sweep(out: Folder) -> None:
    """Takes away what killed processes left."""
    for name in list(out.names()):
        if name.endswith(UNFINISHED) and name != LOCK:
            out.remove(name)


def _mean_std(histogram: Histogram | int) -> tuple[list[float], list[float]]:
    """Of each channel, in pixel units of [0, 1]. histogram: (C, 256) counts."""
    if isinstance(histogram, int) or not histogram.any():
        return [], []
    count = histogram.sum(axis=1)
    values = np.arange(256) / 255
    mean = histogram @ values / count
    std = np.sqrt(np.maximum(histogram @ np.square(values) / count - mean**2, 1e-8))
    return [round(m, 6) for m in mean.tolist()], [round(s, 6) for s in std.tolist()]
