"""Wide residual networks for small images (Zagoruyko & Komodakis 2016, arXiv 1605.07146)."""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F

from atjem.models.blocks import run_blocks
from atjem.models.precision import full_precision


class BasicBlock(nn.Module):
    """Pre-activation block: BN-ReLU-conv3x3 twice, with a 1x1 shortcut where the shape changes."""

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        same = in_planes == planes and stride == 1
        self.shortcut = None if same else nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x), inplace=True)  # in place where no gradient needs what was there
        residual = x if self.shortcut is None else self.shortcut(out)
        out = self.conv1(out)
        return residual + self.conv2(F.relu(self.bn2(out), inplace=True))


class WideResNet(nn.Module):
    """WRN-depth-width: three groups of (depth - 4) / 6 blocks, 16/32/64 planes times `width`."""

    recompute = False  # see `run_blocks`

    def __init__(self, depth: int, width: int, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        if (depth - 4) % 6 or depth < 10:
            raise ValueError(f"WRN depth must be 6n + 4 with n >= 1 (10, 16, 22, 28, 34, ...), not {depth}")
        blocks_per_group = (depth - 4) // 6
        planes = 16
        self.conv1 = nn.Conv2d(channels, planes, 3, padding=1, bias=False)
        groups = []
        for group, stride in enumerate((1, 2, 2)):
            out_planes = 16 * width * 2**group
            for block in range(blocks_per_group):
                groups.append(BasicBlock(planes, out_planes, stride if block == 0 else 1))
                planes = out_planes
        self.blocks = nn.Sequential(*groups)
        self.bn = nn.BatchNorm2d(planes)
        self.fc = nn.Linear(planes, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    @property
    def stem(self) -> nn.Module:
        return self.conv1

    def foldable(self) -> Iterator[tuple[str, str]]:
        """Names of convolutions and the BatchNorm that alone reads each: see `AttackNetwork`."""
        first = self.blocks[0]
        assert isinstance(first, BasicBlock)
        if first.shortcut is not None:  # else the residual reads the stem too
            yield "conv1", "blocks.0.bn1"
        for number in range(len(self.blocks)):
            yield f"blocks.{number}.conv1", f"blocks.{number}.bn2"

    def features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) normalised images to (B, 64 * width) pooled features."""
        out = run_blocks(self.blocks, full_precision(self.conv1, x), recompute=self.recompute)
        return F.relu(self.bn(out)).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.features(x))
        return logits
