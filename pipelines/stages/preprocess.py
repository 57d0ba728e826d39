"""Source collections to WebDataset shards: `train`, `test`, and held-out-able seeds when they are files."""

import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import ray

from data.build import SMALL, build, here
from data.part import Job, Part, ShardTask
from data.redact import redact_address
from data.sources.base import Source, SourceError
from data.sources.named import open_source
from data.sources.noise_names import KINDS
from pipelines.context import StageContext


def run(context: StageContext) -> dict[str, Any]:
    """Artifact: `images/` with splits train and test; `seeds/` with ood-train and ood-test for seed files.

    Shards are built beside the checkpoints, so that an interrupted stage goes on with those that are missing.
    """
    data = context.settings.data
    collections = {"images": (data.in_, ("train", "test"))}
    if data.ood not in KINDS:
        collections["seeds"] = (data.ood, ("ood-train", "ood-test"))
    facts: dict[str, Any] = {
        "metrics": {},
        "datasets": {},
        "rejected": [],
        "identical": [],
        "num_identical": 0,
    }
    for name, (given, splits) in collections.items():
        source = _open_unchanged(context, f"data.{'in' if name == 'images' else 'ood'}", given)
        folder, is_small = context.checkpoints / name, len(source.items) <= SMALL
        dataset = build(
            source,
            folder if is_small else context.mirror.shared(folder),
            _job(context, splits),
            spread=here if is_small else over_ray,
            progress=lambda done, total: context.report.progress(done, total, "images"),
        )
        if not is_small:
            context.mirror.collect(folder)
        shown = redact_address(given)
        facts["datasets"][name] = {"source": shown, "sha256": dataset.sha256, "counts": dataset.counts}
        for split, count in dataset.counts.items():
            facts["metrics"][f"num_{split.replace('-', '_')}_images"] = count
        facts["metrics"][f"num_rejected_{name}"] = len(dataset.rejected)
        facts["metrics"][f"num_identical_{name}"] = dataset.num_identical
        facts["rejected"] += dataset.rejected
        facts["identical"] += dataset.identical
        facts["num_identical"] += dataset.num_identical
    for name in collections:
        shutil.move(context.checkpoints / name, context.folder / name)
    return facts


def over_ray(tasks: Iterable[ShardTask]) -> Iterator[Part]:
    """Shards by as many tasks as the cluster has CPUs, in the order in which they are finished."""
    make = ray.remote(ShardTask.make).options(num_cpus=1, max_retries=3, name="shard")
    most = 2 * int(ray.cluster_resources().get("CPU", 1))
    remaining = iter(tasks)
    running: list[ray.ObjectRef[Part]] = []
    while True:
        running += [make.remote(task) for task in islice(remaining, most - len(running))]
        if not running:
            return
        (finished,), running = ray.wait(running, num_returns=1)
        yield ray.get(finished)


def _job(context: StageContext, splits: tuple[str, str]) -> Job:
    settings, data = context.settings, context.settings.data
    return Job(
        settings.model.channels,
        data.image_size,
        settings.data.seed,
        data.test_fraction,
        data.max_bad_fraction,
        splits,
        data.short_side,
        data.encoding,
        data.max_images,
        data.shard_mb,
    )


def _open_unchanged(context: StageContext, setting: str, name: str) -> Source:
    """The collection, as it was when the fingerprint was made; SourceError if files changed since."""
    source = open_source(name, context.settings.data.root)
    if source.identity != context.sources[setting]:
        shown = redact_address(name)
        raise SourceError(f"{setting}: the files of {shown} changed while the run began; start it again")
    return source
