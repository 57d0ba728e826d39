"""The images to learn and the seeds: enough of them, of enough classes, and they can be decoded."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data.decode import UndecodableError, read_square
from data.sources.base import Item, Source, SourceError
from data.sources.named import open_source, photograph_classes
from data.sources.noise_names import KINDS
from data.splits import num_held_out
from pipelines.problems import Problem
from pipelines.settings import Settings

_TRIED_IMAGES = 200  # images tried before a folder counts as undecodable


def check_images(settings: Settings) -> Iterator[Problem]:
    source = opened(settings.data.in_, settings)
    if isinstance(source, str):
        yield Problem("data.in", settings.data.in_, source)
        return
    classes = source.classes
    if len(classes) < 2:
        found = "one class" if classes else "no class folder"
        yield Problem(
            "data.in", f"{settings.data.in_} has {found}", "give a folder with two class folders or more"
        )
    unlabelled = source.labels.count(None)
    if classes and unlabelled:
        given = f"{settings.data.in_} has {unlabelled} images outside class folders"
        yield Problem("data.in", given, "move them into class folders or away")
    seen = {label for label, split in zip(source.labels, source.splits, strict=True) if split != "test"}
    unseen = sorted({str(label) for label in source.labels if label not in seen})
    if classes and unseen and not source.known_classes:
        given = f"{settings.data.in_} has {', '.join(unseen[:3])} only among its test images"
        yield Problem("data.in", given, "each class needs training images")
    yield from _check_decodable("data.in", settings.data.in_, source, settings)
    sizes = Counter(source.labels).values()
    num_train = len(source.items) - sum(num_held_out(num, settings.data.test_fraction) for num in sizes)
    splits = source.splits
    if any(splits):
        num_train = splits.count("train")
        if "test" not in splits:
            yield Problem("data.in", f"{settings.data.in_} has a train folder and no test", "add test or val")
    num_test = len(source.items) - num_train
    if most := settings.data.max_images:
        num_train, num_test = min(num_train, most), min(num_test, most)
    for name, stage in (("stage1", settings.stage1), ("stage2", settings.stage2)):
        if stage.steps and stage.batch_size > num_train:
            allowed = f"data.in has about {num_train} training images; use a smaller batch or more images"
            yield Problem(f"{name}.batch_size", str(stage.batch_size), allowed)
    fewest = 10
    if num_test < fewest or num_train < fewest:
        given = f"{settings.data.in_} has {num_train} training and {num_test} test images"
        allowed = f"fidelity needs {fewest} of each or more"
        if num_test < fewest and not any(splits):
            allowed += "; a class of one image holds none out: give more of each, or a test folder"
        yield Problem("data.in", given, allowed)


def check_seeds(settings: Settings) -> Iterator[Problem]:
    name = settings.data.ood
    if name in KINDS:
        return
    if _overlap(name, settings.data.in_, settings.data.root):
        allowed = f"the images to learn are no seeds; use {', '.join(KINDS)} or a folder of other images"
        yield Problem("data.ood", name, allowed)
        return
    source = opened(name, settings)
    if isinstance(source, str):
        yield Problem("data.ood", name, f"{source} (or use {' or '.join(KINDS)})")
        return
    yield from _check_decodable("data.ood", name, source, settings)
    splits = source.splits
    num_train = round(len(splits) * (1 - settings.data.test_fraction))
    num_train = splits.count("train") if any(splits) else num_train
    if num_train < len(splits):
        num_train = min(num_train, settings.data.max_images or num_train)
    if settings.stage2.steps and num_train < settings.stage2.batch_size:
        allowed = f"stage2.batch_size={settings.stage2.batch_size} needs as many; give more seeds"
        yield Problem("data.ood", f"{name} has about {num_train} seeds to train with", allowed)
    if num_train >= len(splits):
        yield Problem(
            "data.ood", f"{name} holds out no seeds for sampling", "give more seeds, or a test folder"
        )


def _overlap(seeds: str, images: str, root: str) -> bool:
    """The same collection, or one folder inside the other."""
    if photograph_classes(seeds):  # of smoke runs: nothing is learnt from them
        return False
    folders = [(Path(root) / Path(name).expanduser()).resolve() for name in (seeds, images)]
    return folders[0].is_relative_to(folders[1]) or folders[1].is_relative_to(folders[0])


def opened(name: str, settings: Settings) -> Source | str:
    try:
        source = open_source(name, settings.data.root)
        return source if source.items else "holds no image"
    except (SourceError, OSError, RuntimeError) as error:
        return str(error)


def _check_decodable(setting: str, name: str, source: Source, settings: Settings) -> Iterator[Problem]:
    """One image that can be decoded is enough here; preprocessing counts the others."""
    stride = max(1, len(source.items) // _TRIED_IMAGES)
    tried = source.items[::stride]
    if not any(_decodes(item, settings) for item in tried):
        yield Problem(setting, name, f"none of {len(tried)} images tried can be decoded; give images")


def _decodes(item: Item, settings: Settings) -> bool:
    try:
        read_square(item.open, channels=settings.model.channels, image_size=settings.data.image_size)
    except UndecodableError:
        return False
    return True
