"""From a name to a network: `build_model` is the one place that makes models."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from atjem.models.names import ARCHITECTURES, RESNETS, parse_convnext, parse_wrn

if TYPE_CHECKING:
    from atjem.models.convnext import ConvNeXt
    from atjem.models.resnet import ResNet
    from atjem.models.wrn import WideResNet

    Backbone = WideResNet | ResNet | ConvNeXt  # each has features(x), and fc from features to logits


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to rebuild a network before its weights are loaded.

    mean and std are per channel, in pixel units of [0, 1] images.
    """

    arch: str
    num_classes: int
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Normalize(nn.Module):
    """(x - mean) / std as the model's first layer, so that every attack works in pixel space."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class JointEnergyModel(nn.Module):
    """A classifier f whose logits are read as class posterior, joint and marginal energy.

    forward: (B, C, H, W) float32 in [0, 1] to logits (B, K). `spec` says how it was built.
    """

    def __init__(self, spec: ModelSpec, backbone: "Backbone") -> None:
        super().__init__()
        self.spec = spec
        self.normalize = Normalize(spec.mean, spec.std)
        self.backbone = backbone

    def features(self, x: Tensor) -> Tensor:
        """Pooled features before the last linear layer. Returns (B, D)."""
        return self.backbone.features(self.normalize(x))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.backbone(self.normalize(x))
        return logits.float() if logits.dtype == torch.bfloat16 else logits


def build_model(spec: ModelSpec) -> JointEnergyModel:
    """A network with fresh weights from torch's global generator. Raises ValueError for an unknown name."""
    return JointEnergyModel(spec, _backbone(spec))


def _backbone(spec: ModelSpec) -> "Backbone":
    """Imports only the family that is asked for: torchvision and timm take seconds."""
    if shape := parse_wrn(spec.arch):
        from atjem.models.wrn import WideResNet

        return WideResNet(*shape, spec.num_classes, channels=spec.channels)
    if parsed := parse_convnext(spec.arch):
        from atjem.models.convnext import ConvNeXt

        size, conv_stem = parsed
        return ConvNeXt(size, spec.num_classes, channels=spec.channels, conv_stem=conv_stem)
    if spec.arch in RESNETS:
        from atjem.models.resnet import ResNet

        return ResNet(spec.arch, spec.num_classes, channels=spec.channels)
    raise ValueError(f"arch={spec.arch!r} is unknown; use {ARCHITECTURES}")
