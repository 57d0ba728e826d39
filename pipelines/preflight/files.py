"""Files that the settings name: what stage 1 starts from, Inception's weights, statistics to compare with."""

from collections.abc import Iterator
from pathlib import Path

from atjem.checkpoint_files import unusable_start
from atjem.models.footprint import PUBLISHED
from pipelines.files import path_exists, read_json
from pipelines.preflight.images import opened
from pipelines.preflight.places import unanswered
from pipelines.problems import Problem
from pipelines.settings import Settings

_UNTRUSTED = (
    "only tensors are read: unpickling more runs whatever code its author put there; if you trust them, "
    "--trust-checkpoint unpickles this file and no other"
)


def check_checkpoint(settings: Settings, *, trusted: bool) -> Iterator[Problem]:
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
        yield from _check_published(path, settings, trusted=trusted)


def _check_published(path: str, settings: Settings, *, trusted: bool) -> Iterator[Problem]:
    """A published file fits the network: found out by loading it, once the classes are known."""
    source = opened(settings.data.in_, settings)
    if isinstance(source, str):
        return
    from atjem.checkpoint import CheckpointError
    from atjem.models.registry import build_model
    from atjem.published import load_published
    from atjem.published_files import PickledObjectsError
    from pipelines.stages.inputs import published_spec

    if settings.model.normalization == "data":
        yield Problem("model.normalization", "'data'", "a published checkpoint needs 'imagenet' or 'none'")
        return
    try:
        model = build_model(published_spec(settings, len(source.classes)))
        load_published(model, Path(path), trusted=trusted)
    except PickledObjectsError as error:
        given = f"{path} wants to import {error.wanted}" if error.wanted else f"{path} holds pickled objects"
        yield Problem("model.checkpoint", given, _UNTRUSTED)
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
    source = opened(settings.data.in_, settings)
    classes = spec.num_classes if isinstance(source, str) else len(source.classes)
    for name, own, wanted in (
        ("num_classes", spec.num_classes, classes),
        ("arch", spec.arch, settings.model.arch),
        ("channels", spec.channels, settings.model.channels),
        ("image_size", spec.image_size, settings.data.image_size),
    ):
        if own != wanted:
            yield Problem("model.checkpoint", f"{path} has {name} {own}", f"this run has {wanted}")


def check_weights(settings: Settings) -> Iterator[Problem]:
    evaluate = settings.evaluate
    if evaluate.feature_extractor != "inception":
        return
    path = evaluate.inception_weights
    if path is not None and (reason := _unusable_weights(Path(path))):
        allowed = f"{reason}; give torch-fidelity's weights-inception-2015-12-05-6726825d.pth"
        yield Problem("evaluate.inception_weights", path, allowed)
    if path is None and unanswered("https://github.com"):
        given = "not given, and torch-fidelity's download is out of reach"
        yield Problem(
            "evaluate.inception_weights", given, "give the file, or evaluate.feature_extractor=classifier"
        )


def _unusable_weights(path: Path) -> str:
    if not path_exists(path) or not path.is_file():
        return "no such file"
    from atjem.fidelity import is_inception_file

    return "" if is_inception_file(path) else "does not hold these weights"


def check_reference(settings: Settings) -> Iterator[Problem]:
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
