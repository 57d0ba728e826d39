"""Everything that could fail later, checked before the first stage: every problem found, one line each."""

import shutil
import socket
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlparse, urlunparse
from urllib.request import urlopen
from uuid import uuid4

from atjem.checkpoint_files import unusable_start
from atjem.models.footprint import PUBLISHED
from data.augment_text import parse_augment
from data.decode import UndecodableError, read_square
from data.sources.base import Item, Source, SourceError
from data.sources.named import open_source, photograph_classes
from data.sources.noise_names import KINDS
from data.splits import num_held_out
from pipelines.files import path_exists, read_json
from pipelines.problems import Problem
from pipelines.settings import Settings

_TRIED_IMAGES = 200  # images tried before a folder counts as undecodable
_SPACE = 500 << 20  # bytes that any run may need beside its data
_FEATURE_BYTES = 12_500  # of an image, under Inception
_CONNECT_SECONDS = 5


def check_settings(settings: Settings) -> list[Problem]:
    """What needs the settings and the files they name, and nothing else."""
    checks: list[Callable[[Settings], Iterator[Problem]]] = [
        _check_workers,
        _check_checkpoint,
        _check_weights,
        _check_reference,
        _check_augment,
        _check_buffer,
        _check_choice,
    ]
    problems = [problem for check in checks for problem in check(settings)]
    return problems + list(_check_images(settings)) + list(_check_seeds(settings))


def _check_choice(settings: Settings) -> Iterator[Problem]:
    if settings.stage2.select == "best_frechet" and settings.sample.seeds == "test":
        allowed = (
            "stage2.select: best_frechet measures against the test images; use ood, or stage2.select: last"
        )
        yield Problem("sample.seeds", "'test'", allowed)


def check_place(workdir: Path, settings: Settings) -> list[Problem]:
    """The workdir can be written and has room."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".probe-{uuid4().hex[:8]}"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        return [Problem("--workdir", str(workdir), f"not writable ({error.strerror}); give another folder")]
    needed, free = _needed_bytes(settings), shutil.disk_usage(workdir).free
    if free < needed:
        asked = f"the run needs about {_megabytes(needed)}"
        return [
            Problem(
                "--workdir", f"{workdir} has {_megabytes(free)} free", f"{asked}; free some or use another"
            )
        ]
    return []


def check_tracking(uri: str) -> list[Problem]:
    """A tracking server answers at all; a SQLite file can be written, or made."""
    try:
        parsed = urlparse(uri)
        if parsed.scheme == "sqlite":
            return _check_sqlite(uri)
        if parsed.scheme not in ("http", "https"):
            allowed = "give http(s)://HOST:PORT, sqlite:////FILE or another address that MLflow knows"
            return [] if parsed.scheme and parsed.netloc else [Problem("--tracking-uri", repr(uri), allowed)]
        reason = _unanswered(urlunparse(parsed._replace(netloc=parsed.netloc.rpartition("@")[2])))
    except ValueError as error:
        reason = str(error)
    if not reason:
        return []
    return [
        Problem("--tracking-uri", uri, f"no MLflow server answers there ({reason}); start it or give another")
    ]


def _check_sqlite(uri: str) -> list[Problem]:
    path = Path(uri.removeprefix("sqlite:///"))
    allowed = ""
    if not uri.startswith("sqlite:///") or path == Path():
        allowed = "give a file: sqlite:///relative/path or sqlite:////absolute/path"
    elif path.is_dir():
        allowed = "is a folder; give a file"
    elif path.exists():
        allowed = _unreadable_database(path)
    elif not path.parent.is_dir() and path.parent.parent.is_dir() is False:
        allowed = f"{path.parent} does not exist; make it first"
    return [Problem("--tracking-uri", uri, allowed)] if allowed else []


def _unreadable_database(path: Path) -> str:
    try:
        with closing(sqlite3.connect(path, timeout=_CONNECT_SECONDS)) as database:
            database.execute("BEGIN IMMEDIATE").close()
            database.rollback()
    except sqlite3.Error as error:
        return f"not a database that can be written ({error}); move it away or give another"
    return ""


def _unanswered(url: str) -> str:
    """Why no web server answers at a URL; empty when one does, whatever it says."""
    try:
        with urlopen(url, timeout=_CONNECT_SECONDS):
            return ""
    except HTTPError:
        return ""
    except (OSError, HTTPException) as error:
        return str(getattr(error, "reason", None) or error)


def check_cluster(address: str | None) -> list[Problem]:
    """Something listens at a Ray cluster's address; Ray itself would wait for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():  # 'auto', or an address that Ray will refuse by itself
        return []
    try:
        with socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS):
            return []
    except OSError as error:
        reason = error.strerror or str(error)
        return [Problem("--ray-address", str(address), f"no Ray cluster answers there ({reason})")]


def _check_workers(settings: Settings) -> Iterator[Problem]:
    workers = settings.compute.num_workers
    for name, stage in (("stage1", settings.stage1), ("stage2", settings.stage2)):
        if stage.batch_size % (workers * stage.accumulate):
            parts = f"{workers} workers x {stage.accumulate} micro-batches"
            yield Problem(f"{name}.batch_size", str(stage.batch_size), f"must be divisible by {parts}")


def _check_buffer(settings: Settings) -> Iterator[Problem]:
    if settings.stage2.objective == "jem" and settings.compute.num_workers > 1:
        given = f"{settings.compute.num_workers} with stage2.objective=jem"
        yield Problem("compute.num_workers", given, "its replay buffer belongs to one worker; use 1")


def _check_augment(settings: Settings) -> Iterator[Problem]:
    """What is cut off or covered leaves something to see."""
    size, stage2 = settings.data.image_size, settings.stage2
    texts = {
        "stage1.augment": settings.stage1.augment,
        "stage2.augment": stage2.augment,
        "stage2.augment_energy": stage2.augment_energy,
        "stage2.augment_ood": stage2.augment_ood,
    }
    for name, text in texts.items():
        spec = parse_augment(text)
        if spec and (2 * spec.crop > size or spec.cutout >= size):
            allowed = f"images are {size} pixels a side: pad by half of it or less, and cut out less than it"
            yield Problem(name, repr(text), allowed)


def _check_checkpoint(settings: Settings) -> Iterator[Problem]:
    path, url = settings.model.checkpoint, settings.model.checkpoint_url
    if path is None:
        return
    if reason := unusable_start(Path(path)):
        wanted = "give a model folder (model.json, model.safetensors) or a published .pt, .pth or .ckpt file"
        if known := PUBLISHED.get(settings.model.arch):
            wanted += f" ({known})"
        yield Problem("model.checkpoint", path, f"{reason}; {f'get it from {url}' if url else wanted}")
    elif Path(path).is_dir():
        yield from _check_model_folder(path, settings)
    else:
        yield from _check_published(path, settings)


def _check_published(path: str, settings: Settings) -> Iterator[Problem]:
    """A published file fits the network: found out by loading it, once the classes are known."""
    source = _open(settings.data.in_, settings)
    if isinstance(source, str):
        return
    from atjem.checkpoint import CheckpointError
    from atjem.models.registry import build_model
    from atjem.published import load_published
    from pipelines.stages.inputs import published_spec

    if settings.model.normalization == "data":
        yield Problem("model.normalization", "'data'", "a published checkpoint needs 'imagenet' or 'none'")
        return
    try:
        load_published(build_model(published_spec(settings, len(source.classes))), Path(path))
    except (CheckpointError, ValueError) as error:
        yield Problem("model.checkpoint", path, str(error))


def _check_model_folder(path: str, settings: Settings) -> Iterator[Problem]:
    from atjem.checkpoint import CheckpointError, load

    try:
        spec = load(path).spec
    except (CheckpointError, ValueError) as error:
        yield Problem(
            "model.checkpoint", path, f"{error}; give a model folder (model.json, model.safetensors)"
        )
        return
    manifest = read_json(Path(path) / "manifest.json") or {}
    if "smoke" in manifest.get("identity", {}):
        yield Problem("model.checkpoint", path, "a smoke run made it, which trains nothing; give another")
    source = _open(settings.data.in_, settings)
    classes = spec.num_classes if isinstance(source, str) else len(source.classes)
    for name, own, wanted in (
        ("num_classes", spec.num_classes, classes),
        ("arch", spec.arch, settings.model.arch),
        ("channels", spec.channels, settings.model.channels),
        ("image_size", spec.image_size, settings.data.image_size),
    ):
        if own != wanted:
            yield Problem("model.checkpoint", f"{path} has {name} {own}", f"this run has {wanted}")


def _check_weights(settings: Settings) -> Iterator[Problem]:
    evaluate = settings.evaluate
    if evaluate.feature_extractor != "inception":
        return
    path = evaluate.inception_weights
    if path is not None and (reason := _unusable_weights(Path(path))):
        allowed = f"{reason}; give torch-fidelity's weights-inception-2015-12-05-6726825d.pth"
        yield Problem("evaluate.inception_weights", path, allowed)
    if path is None and _unanswered("https://github.com"):
        given = "not given, and torch-fidelity's download is out of reach"
        yield Problem(
            "evaluate.inception_weights", given, "give the file, or evaluate.feature_extractor=classifier"
        )


def _check_reference(settings: Settings) -> Iterator[Problem]:
    """Imported statistics belong to the features that samples are compared in."""
    path = settings.evaluate.reference_statistics
    if path is None:
        return
    name = "evaluate.reference_statistics"
    if settings.evaluate.feature_extractor != "inception":
        yield Problem(
            name, path, "are of Inception features; use evaluate.feature_extractor=inception with them"
        )
        return
    from atjem.statistics_file import unusable_reference

    if reason := unusable_reference(Path(path), settings.evaluate.reference_implementation):
        wanted = "give mu and sigma that torch-fidelity made (a reference_stats artifact holds some)"
        yield Problem(name, path, f"{reason}; {wanted}, or null for the training images' own")


def _unusable_weights(path: Path) -> str:
    if not path_exists(path) or not path.is_file():
        return "no such file"
    from atjem.fidelity import is_inception_file

    return "" if is_inception_file(path) else "does not hold these weights"


def _check_images(settings: Settings) -> Iterator[Problem]:
    source = _open(settings.data.in_, settings)
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


def _check_seeds(settings: Settings) -> Iterator[Problem]:
    name = settings.data.ood
    if name in KINDS:
        return
    if _overlap(name, settings.data.in_, settings.data.root):
        allowed = f"the images to learn are no seeds; use {', '.join(KINDS)} or a folder of other images"
        yield Problem("data.ood", name, allowed)
        return
    source = _open(name, settings)
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


def _open(name: str, settings: Settings) -> Source | str:
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


def _needed_bytes(settings: Settings) -> int:
    pixels = settings.model.channels * settings.data.image_size**2
    return _SPACE + settings.sample.num_samples * (2 * pixels + _FEATURE_BYTES)


def _megabytes(num_bytes: float) -> str:
    return f"{num_bytes / 2**20:,.0f} MB"
