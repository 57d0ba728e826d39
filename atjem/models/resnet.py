"""Residual networks for 224-256 px images (He et al. 2016), by torchvision, features apart from the head."""

from collections.abc import Iterator

import torchvision.models.resnet as tv
from torch import Tensor, nn

from atjem.models.blocks import run_blocks
from atjem.models.precision import full_precision

_SHAPES: dict[str, tuple[type[tv.BasicBlock] | type[tv.Bottleneck], list[int], int]] = {
    "resnet-18": (tv.BasicBlock, [2, 2, 2, 2], 64),
    "resnet-50": (tv.Bottleneck, [3, 4, 6, 3], 64),
    "wrn-50-4": (tv.Bottleneck, [3, 4, 6, 3], 256),
}


class ResNet(tv.ResNet):
    """torchvision's network and parameter names, so that published state dicts fit."""

    recompute = False  # see `run_blocks`

    def __init__(self, arch: str, num_classes: int, channels: int = 3) -> None:
        block, layers, width = _SHAPES[arch]
        super().__init__(block, layers, num_classes=num_classes, width_per_group=width)
        if channels != 3:
            self.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)

    @property
    def stem(self) -> nn.Module:
        return self.conv1

    def foldable(self) -> Iterator[tuple[str, str]]:
        """Names of convolutions and the BatchNorm behind each: here, all of them."""
        for name, module in self.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                before = name.replace("bn", "conv") if "bn" in name else name.removesuffix("1") + "0"
                yield before, name

    def features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) normalised images to (B, 512 or 2048) pooled features."""
        out = full_precision(self.conv1, x)
        out = self.maxpool(self.relu(self.bn1(out)))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            out = run_blocks(layer, out, recompute=self.recompute)
        pooled: Tensor = self.avgpool(out).flatten(1)
        return pooled

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.features(x))
        return logits
