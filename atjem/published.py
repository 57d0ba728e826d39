"""Published weights in their authors' files, loaded strictly into our networks and written back."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atjem.checkpoint import CheckpointError, check_values, load_weights, read_spec
from atjem.checkpoint_files import WEIGHTS_FILE, unusable_start
from atjem.models.names import RESNETS
from atjem.models.registry import JointEnergyModel
from atjem.published_files import Weights, read_state_dict
from atjem.published_layouts import (
    LAYOUTS,
    NORMALISATION,
    layout_of,
    published_names,
    split_wrappers,
    unused,
)

_CHANNELS = 16  # more than images have; a tensor that says it is larger may fill any memory
_TOLERANCE = 1e-4  # published means and deviations are rounded to three or four digits


def load_start(model: JointEnergyModel, path: Path, *, trusted: bool = False) -> None:
    """Loads the weights of a model folder, with their normalisation, or of a published file.

    trusted: as of `read_state_dict`. Raises CheckpointError with the reason when they do not fit.
    """
    if reason := unusable_start(path):
        raise CheckpointError(f"{path}: {reason}")
    if path.is_dir():
        load_weights(model, path / WEIGHTS_FILE)
        spec = read_spec(path)  # the folder's weights bring their own normalisation
        model.spec = replace(model.spec, mean=spec.mean, std=spec.std)
    else:
        load_published(model, path, trusted=trusted)


def load_published(model: JointEnergyModel, file: Path, *, trusted: bool = False) -> str:
    """Loads a published file's weights, all or none, and returns the layout that it follows.

    trusted: as of `read_state_dict`. Raises CheckpointError, in the file's own names, when tensors are
    missing, left over or of another shape, or when the file normalises images otherwise than the network.
    """
    weights = read_state_dict(file, trusted=trusted)
    names = _names_without_wrappers(file, weights)
    sources = _sources(model, file, names)
    _check_shapes(model, file, weights, sources)
    _check_values(model, file, weights, sources)
    _check_normalisation(model, file, weights, names)
    found = {ours: weights[name] for ours, name in sources.items()}
    model.backbone.load_state_dict({**model.backbone.state_dict(), **found})
    return layout_of(weights)


def _check_values(model: JointEnergyModel, file: Path, weights: Weights, sources: dict[str, str]) -> None:
    own = model.backbone.state_dict()
    for ours, name in sources.items():
        check_values(file, name, weights[name], like=own[ours])


def export_published(model: JointEnergyModel, layout: str, file: Path) -> None:
    """Writes the model's weights as the layout's authors do; `load_published` reads them back exactly.

    A 'dat' file holds no normalisation: its authors keep that in their code. Raises ValueError for an
    unknown layout and for one that the network's architecture has no place in.
    """
    arch = model.spec.arch
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} is unknown; use one of {', '.join(LAYOUTS)}")
    if layout == "robustness" and arch not in RESNETS:
        raise ValueError(f"layout 'robustness' is for {', '.join(RESNETS)}, not for {arch}")
    if layout == "convnext-cvst" and not arch.endswith("-cvst"):
        raise ValueError(f"layout 'convnext-cvst' is for convnext-SIZE-cvst, not for {arch}")
    torch.save(_laid_out(model, layout), file)


def _laid_out(model: JointEnergyModel, layout: str) -> dict[str, Any]:
    state = {name: value.detach().cpu() for name, value in model.backbone.state_dict().items()}
    names = published_names(model.spec.arch, state, nested_stem=model.spec.arch.endswith("-cvst"))
    weights = {names[ours]: value for ours, value in state.items()}
    mean, std = model.normalize.mean.detach().cpu(), model.normalize.std.detach().cpu()
    match layout:
        case "robustness":
            return _robustness(weights, mean[0], std[0])
        case "dat":
            return {"module.n_averaged": torch.tensor(0), **_prefixed("module.module.", weights)}
    if mean.any() or (std != 1).any():
        normalize = {"normalize.mean": mean, "normalize.std": std}
        weights = {**normalize, **_prefixed("model.", weights)}
    return weights if layout == "robustbench" else _prefixed("base_model.", weights)


def _robustness(weights: Weights, mean: Tensor, std: Tensor) -> dict[str, Any]:
    """robustness' attacker holds the network a second time; its loader prints the epoch."""
    wrapped = {
        **_prefixed("normalizer.new_", {"mean": mean, "std": std}),
        **_prefixed("model.", weights),
        **_prefixed("attacker.normalize.new_", {"mean": mean, "std": std}),
        **_prefixed("attacker.model.", weights),
    }
    return {"model": _prefixed("module.", wrapped), "epoch": 0}


def _prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


def _names_without_wrappers(file: Path, weights: Iterable[str]) -> dict[str, str]:
    """The network's own names in a file to the file's full ones, second copies left out."""
    names: dict[str, str] = {}
    for name in weights:
        own = split_wrappers(name)[1]
        if unused(own):
            continue
        if own in names:
            raise CheckpointError(f"{file} has {own} twice: {names[own]} and {name}")
        names[own] = name
    return names


def _sources(model: JointEnergyModel, file: Path, names: dict[str, str]) -> dict[str, str]:
    """Names of our backbone's tensors to the file's. Files of torch 0.4 lack the norms' batch counters."""
    names = {own: name for own, name in names.items() if own not in NORMALISATION}
    nested = any(own.startswith("stem.stem.") for own in names)
    wanted = published_names(model.spec.arch, model.backbone.state_dict(), nested_stem=nested)
    wrappers = Counter(name.removesuffix(own) for own, name in names.items()).most_common(1)
    prefix = wrappers[0][0] if wrappers else ""
    missing = [
        prefix + name
        for name in wanted.values()
        if name not in names and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for own, name in names.items() if own not in set(wanted.values())]
    if missing or unexpected:
        fit = f"does not fit {model.spec.arch}: missing {missing[:3]}, unexpected {unexpected[:3]}"
        raise CheckpointError(f"{file} {fit}")
    return {ours: names[name] for ours, name in wanted.items() if name in names}


def _check_shapes(model: JointEnergyModel, file: Path, weights: Weights, sources: dict[str, str]) -> None:
    state = model.backbone.state_dict()
    for ours, name in sources.items():
        theirs, own = tuple(weights[name].shape), tuple(state[ours].shape)
        if theirs == own:
            continue
        detail = f"{name} has shape {theirs}, the network's {own}"
        if re.search(r"(^|\.)fc\.(weight|bias)$", ours) and theirs[1:] == own[1:]:
            detail = f"it classifies into {theirs[0]} classes, the network into {own[0]} ({detail})"
        raise CheckpointError(f"{file} does not fit {model.spec.arch}: {detail}")


def _check_normalisation(
    model: JointEnergyModel, file: Path, weights: Weights, names: dict[str, str]
) -> None:
    for own, kind in NORMALISATION.items():
        if own not in names:
            continue
        ours = model.normalize.get_buffer(kind).cpu().double().flatten()
        if weights[names[own]].numel() > _CHANNELS:
            raise CheckpointError(f"{file}: {names[own]} has shape {tuple(weights[names[own]].shape)}")
        check_values(file, names[own], weights[names[own]], like=model.normalize.get_buffer(kind))
        theirs = weights[names[own]].double().flatten()
        if theirs.shape != ours.shape or not ((theirs - ours).abs() <= _TOLERANCE).all():
            given, wanted = (tuple(round(value, 4) for value in side.tolist()) for side in (theirs, ours))
            raise CheckpointError(
                f"{file} normalises by {names[own]} = {given}, the network by {kind} = {wanted}"
            )
