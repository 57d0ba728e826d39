"""Reading what the reference_stats stage made: what samples are compared with, and their extractor."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from atjem.fidelity import CLASSIFIER, Features, Reference, Statistics, make_extractor
from atjem.statistics_file import read_statistics
from pipelines.files import read_json
from pipelines.stages.inputs import pick_device

STATISTICS_FILE = "statistics.npz"  # in a layout that other runs and other tools can read
HELD_OUT_FILE = "held-out.npz"
FEATURES_FILE = "features.safetensors"
PROTOCOL_FILE = "protocol.json"


def read_reference(folder: Path) -> Reference:
    statistics, _ = read_statistics(folder / STATISTICS_FILE)
    kept = read_kept(folder)
    return Reference(statistics, kept and kept[0])


def read_kept(folder: Path) -> tuple[Features, Tensor] | None:
    """Features and labels (N,) of training images; None where statistics were imported."""
    if not (folder / FEATURES_FILE).is_file():
        return None
    stored = load_file(folder / FEATURES_FILE)
    return Features.of(stored), stored["labels"]


def write_kept(folder: Path, features: Features, labels: Tensor) -> None:
    tensors = {**features.tensors(), "labels": labels}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / FEATURES_FILE)


def read_held_out(folder: Path) -> Statistics:
    """Statistics of the test images: for choices that the final figures are not to profit from."""
    return read_statistics(folder / HELD_OUT_FILE)[0]


def read_protocol(folder: Path) -> dict[str, Any]:
    """What figures that use the extractor and the reference depend on."""
    protocol = read_json(folder / PROTOCOL_FILE)
    assert protocol is not None, f"{folder} was made by no reference_stats stage"
    return protocol


def open_extractor(folder: Path, inception_weights: str | None, device: torch.device | None = None) -> Any:
    """The extractor that made a reference, on the device at hand."""
    name = read_protocol(folder)["extractor"]
    weights = str(folder) if name == CLASSIFIER else inception_weights
    return make_extractor(name, weights, device or pick_device())
