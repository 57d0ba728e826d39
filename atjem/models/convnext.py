"""ConvNeXt (Liu et al. 2022) by timm, plain or with the convolutional stem of Singh et al. 2023.

The stem replaces the 4x4 patch embedding by 3x3 convolutions, each followed by LayerNorm over channels and
GELU (arXiv 2303.01870): two stride-2 layers, and for the larger networks a third of stride 1.
"""

from itertools import pairwise

import timm
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from atjem.models.blocks import run_blocks
from atjem.models.precision import full_precision

_STEMS = {"tiny": (48, 96), "small": (48, 96), "base": (64, 96, 128), "large": (96, 144, 192)}


class ConvNeXt(nn.Module):
    """`size` tiny, small, base or large; `conv_stem` for the robust variant of published checkpoints."""

    recompute = False  # see `run_blocks`

    def __init__(self, size: str, num_classes: int, channels: int = 3, *, conv_stem: bool) -> None:
        super().__init__()
        self.body = timm.create_model(
            f"convnext_{size}", pretrained=False, num_classes=num_classes, in_chans=channels
        )
        if conv_stem:
            self.body.stem = _conv_stem(channels, _STEMS[size])

    @property
    def stem(self) -> nn.Module:
        stem: nn.Module = self.body.stem
        return stem

    def foldable(self) -> tuple[tuple[str, str], ...]:
        """No BatchNorm: nothing to fold."""
        return ()

    @property
    def fc(self) -> nn.Module:
        """The last linear layer: features to logits."""
        head: nn.Module = self.body.head.fc
        return head

    def features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) images to (B, D) pooled, normalised features."""
        out = full_precision(self.body.stem, x)
        for stage in self.body.stages:
            out = run_blocks(stage.blocks, stage.downsample(out), recompute=self.recompute)
        pooled: Tensor = self.body.forward_head(self.body.norm_pre(out), pre_logits=True)
        return pooled

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.features(x))
        return logits


def _conv_stem(channels: int, widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise((channels, *widths))):
        stride = 2 if number < 2 else 1
        layers += [nn.Conv2d(before, after, 3, stride=stride, padding=1), LayerNorm2d(after), nn.GELU()]
    return nn.Sequential(*layers)
