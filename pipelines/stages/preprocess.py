"""Source collections to WebDataset shards: `train`, `test`, and held-out-able seeds when they are files."""

from typing import Any

from data.named import open_source
from data.noise_names import KINDS
from data.prepare import Job, prepare
from data.sources import Source, SourceError
from pipelines.context import StageContext


def run(context: StageContext) -> dict[str, Any]:
    """Artifact: `images/` with splits train and test; `seeds/` with ood-train and ood-test for seed files."""
    data = context.settings.data
    collections = {"images": (data.in_, ("train", "test"))}
    if data.ood not in KINDS:
        collections["seeds"] = (data.ood, ("ood-train", "ood-test"))
    facts: dict[str, Any] = {"metrics": {}, "datasets": {}}
    for name, (source, splits) in collections.items():
        folder = context.folder / name
        folder.mkdir()
        dataset = prepare(
            _open_unchanged(context, f"data.{'in' if name == 'images' else 'ood'}", source),
            folder,
            _job(context, splits),
            progress=lambda done, total: context.report.progress(done, total, "images"),
        )
        facts["datasets"][name] = {"source": source, "sha256": dataset.sha256, "counts": dataset.counts}
        for split, count in dataset.counts.items():
            facts["metrics"][f"num_{split.replace('-', '_')}_images"] = count
        facts["metrics"][f"num_rejected_{name}"] = len(dataset.rejected)
        facts.setdefault("rejected", []).extend(dataset.rejected)
    return facts


def _job(context: StageContext, splits: tuple[str, str]) -> Job:
    settings, data = context.settings, context.settings.data
    return Job(
        settings.model.channels,
        data.image_size,
        settings.seed,
        data.test_fraction,
        data.max_bad_fraction,
        splits,
        data.short_side,
        data.encoding,
        data.max_images,
    )


def _open_unchanged(context: StageContext, setting: str, name: str) -> Source:
    """The collection, as it was when the fingerprint was made; SourceError if files changed since."""
    source = open_source(name, context.settings.data.root)
    if source.identity != context.sources[setting]:
        raise SourceError(f"{setting}: the files of {name} changed while the run began; start it again")
    return source
