"""Tensors that a stage keeps in files: written whole or not at all, read by name."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

ENERGIES_FILE = "energies.safetensors"  # of real images and seeds, in the evaluate_classifier artifact


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """A safetensors file; its folder is made if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    near = file.with_name(f".{file.name}.unfinished")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, near)
    near.replace(file)


def read_tensors(files: Iterable[Path], *names: str) -> dict[str, Tensor]:
    """The named tensors of several files, one file's behind the other's."""
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    for file in files:
        with safe_open(file, framework="pt") as stored:
            for name, own in parts.items():
                own.append(stored.get_tensor(name))
    return {name: torch.cat(own) for name, own in parts.items()}


def is_readable(file: Path) -> bool:
    try:
        return bool(load_file(file))
    except (OSError, SafetensorError):
        return False
