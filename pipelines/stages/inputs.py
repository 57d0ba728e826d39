"""Opening what the preprocess stage and the training stages made."""

from pathlib import Path
from typing import TYPE_CHECKING

import ray
import torch
from torch import Tensor

from atjem.checkpoint import load, read_spec
from atjem.models.attack_network import AttackNetwork
from atjem.models.footprint import fitting_batch
from atjem.models.precision import InPrecision
from atjem.models.registry import ModelSpec
from data.devices import to_device
from data.images import Images, open_images
from data.rng import stream_seed
from data.shards import Dataset
from data.sources.noise import NoiseImages
from data.sources.noise_names import KINDS
from pipelines.context import StageContext

if TYPE_CHECKING:
    from pipelines.settings import Settings


_USABLE = 0.9  # of a device's memory: the driver and the allocator take some

# Mean and std of the first layer where they are not the data's own; ImageNet's are torchvision's.
_FIXED: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.0,) * 3, (1.0,) * 3),
}


def read_dataset(data: Path) -> Dataset:
    return Dataset.read(data / "images")


def labelled_images(data: Path, split: str, readers: int = 4) -> tuple[Images, Tensor]:
    """The train or test images of a preprocess artifact, with labels (N,). readers: threads that decode."""
    return open_images(data / "images", split, readers)


def seed_images(
    data: Path,
    ood: str,
    *,
    held_out: bool,
    seed: int,
    channels: int,
    image_size: int,
    readers: int = 4,
) -> Images:
    """Seeds to train with, or those held out for sampling: files' splits, or noise of another stream."""
    if ood in KINDS:
        return NoiseImages(ood, stream_seed(seed, f"seeds/{held_out}"), channels, image_size)
    return open_images(data / "seeds", "ood-test" if held_out else "ood-train", readers)[0]


def load_network(folder: Path, device: torch.device, precision: str = "fp32") -> InPrecision:
    """A model artifact for evaluation: frozen, channels last, BatchNorm folded, in `evaluate.precision`."""
    model = load(folder).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return InPrecision(AttackNetwork(model).network, precision)


def batch_size(context: StageContext, most: int) -> int:
    """Images that an evaluation differentiates together: `evaluate.batch_size`, or what its device holds.

    most: where there is room for more, which no longer makes it faster.
    """
    evaluate, data = context.settings.evaluate, read_dataset(context.inputs["data"])
    return evaluate.batch_size or fitting_batch(
        read_spec(context.inputs["model"]).arch,
        num_classes=len(data.classes),
        channels=data.channels,
        image_size=data.image_size,
        precision=evaluate.precision,
        memory=_USABLE * context.memory,
        most=most,
    )


def model_spec(data: Path, arch: str, normalization: str) -> ModelSpec:
    """A network for this data: its classes, channels, size and normalisation."""
    dataset = read_dataset(data)
    mean, std = _FIXED.get(normalization, (tuple(dataset.mean), tuple(dataset.std)))
    channels = dataset.channels
    return ModelSpec(
        arch, len(dataset.classes), channels, dataset.image_size, mean[:channels], std[:channels]
    )


def published_spec(settings: "Settings", num_classes: int) -> ModelSpec:
    """The network that a published file must fit, known before any data is prepared."""
    model, channels = settings.model, settings.model.channels
    mean, std = _FIXED[model.normalization]
    size = settings.data.image_size
    return ModelSpec(model.arch, num_classes, channels, size, mean[:channels], std[:channels])


def as_float(images: Tensor, device: torch.device) -> Tensor:
    """uint8 pixels to float32 in [0, 1] on the device."""
    return to_device(images, device).float().div_(255)


def pick_device() -> torch.device:
    """The GPU that Ray gave this process, else the CPU; where there is no Ray, any GPU."""
    given = bool(ray.get_gpu_ids()) if ray.is_initialized() else True
    return torch.device("cuda" if given and torch.cuda.is_available() else "cpu")
