"""A model on disk: `model.json` (how to build it) beside `model.safetensors` (its weights)."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from atjem.checkpoint_files import SPEC_FILE, WEIGHTS_FILE, missing_files
from atjem.models.footprint import footprint
from atjem.models.registry import JointEnergyModel, ModelSpec, build_model

_FEW_PARAMETERS = 10_000_000  # which any machine has room for


class CheckpointError(ValueError):
    """What was given is not a model that this package can load; the text says why."""


def save_model(model: JointEnergyModel, folder: Path) -> None:
    """Writes the model's two files into an existing folder."""
    write_model(weights_of(model), model.spec, folder)


def write_model(weights: Mapping[str, Tensor], spec: ModelSpec, folder: Path) -> None:
    """The same, from a copy of the model's state on the CPU."""
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / WEIGHTS_FILE)
    (folder / SPEC_FILE).write_text(json.dumps(asdict(spec), indent=2) + "\n")


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of everything that is saved of a model, on the CPU, in the layout that files have."""
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }


def read_spec(path: str | Path) -> ModelSpec:
    """How the model in a folder is built. Raises CheckpointError when it is not one."""
    folder = Path(path)
    if missing := missing_files(folder):
        raise CheckpointError(f"{path} is not a model folder: it has no {' and no '.join(missing)}")
    try:
        fields = json.loads((folder / SPEC_FILE).read_text())
        return ModelSpec(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{folder / SPEC_FILE} does not describe a model: {error}") from error


def load_weights(model: nn.Module, file: Path) -> None:
    """Strictly loads a safetensors file. Raises CheckpointError naming the first keys that do not fit."""
    try:
        weights = load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is not a safetensors file: {error}") from error
    own = model.state_dict()
    missing, unexpected = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or unexpected:
        raise CheckpointError(
            f"{file} does not fit the network: missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    for name, value in weights.items():
        if value.shape != own[name].shape:
            raise CheckpointError(
                f"{file}: {name} has shape {tuple(value.shape)}, the network {tuple(own[name].shape)}"
            )
        check_values(file, name, value, like=own[name])
    model.load_state_dict(weights)


def check_values(file: Path, name: str, value: Tensor, *, like: Tensor) -> None:
    """Raises CheckpointError unless a stored tensor holds finite numbers of its kind, once it is cast."""
    if value.layout != torch.strided or value.is_meta or value.is_complex():
        raise CheckpointError(f"{file}: {name} is no plain tensor of numbers")
    if like.is_floating_point() and not (value.is_floating_point() and value.to(like.dtype).isfinite().all()):
        raise CheckpointError(f"{file}: {name} does not hold finite floating-point numbers")
    if name.endswith("running_var") and (value < 0).any():
        raise CheckpointError(f"{file}: {name} holds negative variances")


def _refuse_larger(spec: ModelSpec, file: Path) -> None:
    """Raises ValueError for a network of more parameters than its file has bytes, before it takes memory."""
    own = footprint(
        spec.arch, num_classes=spec.num_classes, channels=spec.channels, image_size=32, precision="fp32"
    )
    if own.parameters > max(_FEW_PARAMETERS, file.stat().st_size):
        raise ValueError(f"it has {own.parameters:,} parameters, and {file.name} fewer bytes")


def load(path: str | Path) -> JointEnergyModel:
    """The model in an artifact or checkpoint folder, in eval mode on the CPU.

    Raises CheckpointError when the folder is not a model, or its weights do not fit.
    """
    spec = read_spec(path)
    try:
        _refuse_larger(spec, Path(path) / WEIGHTS_FILE)
        model = build_model(spec)
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{Path(path) / SPEC_FILE} does not describe a model: {error}") from error
    load_weights(model, Path(path) / WEIGHTS_FILE)
    for name, told in (("mean", spec.mean), ("std", spec.std)):
        if not torch.equal(getattr(model.normalize, name).flatten(), torch.tensor(told)):
            raise CheckpointError(f"{path}: {SPEC_FILE} and {WEIGHTS_FILE} disagree about {name}")
    return model.eval()
