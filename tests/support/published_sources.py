"""Networks of the published files' authors, written apart from ours, and their state dicts' layouts."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18

from atjem.checkpoint import CheckpointError
from atjem.models.registry import ModelSpec, build_model
from atjem.published import load_published
from tests.support.learning import assert_same_state

NUM_CLASSES = 5
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IDENTITY = ((0.0,) * 3, (1.0,) * 3)


class TradesBlock(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.convShortcut = None if before == after else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x):
        out = F.relu(self.bn1(x))
        x = self.convShortcut(out) if self.convShortcut else x
        return x + self.conv2(F.relu(self.bn2(self.conv1(out))))


class TradesGroup(nn.Module):
    def __init__(self, num_blocks, before, after, stride):
        super().__init__()
        blocks = [TradesBlock(before, after, stride)]
        self.layer = nn.Sequential(*blocks, *(TradesBlock(after, after, 1) for _ in range(num_blocks - 1)))


class TradesWideResNet(nn.Module):
    """With the first group's second copy, which TRADES builds and never runs."""

    def __init__(self, depth, width, num_classes):
        super().__init__()
        num_blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = TradesGroup(num_blocks, 16, 16 * width, 1)
        self.sub_block1 = TradesGroup(num_blocks, 16, 16 * width, 1)
        self.block2 = TradesGroup(num_blocks, 16 * width, 32 * width, 2)
        self.block3 = TradesGroup(num_blocks, 32 * width, 64 * width, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)

    def forward(self, x):
        out = self.conv1(x)
        for group in (self.block1, self.block2, self.block3):
            out = group.layer(out)
        return self.fc(F.adaptive_avg_pool2d(F.relu(self.bn1(out)), 1).flatten(1))


class ChannelNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        centred = x - x.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return self.weight[:, None, None] * scaled + self.bias[:, None, None]


class ConvStem(nn.Module):
    def __init__(self):
        super().__init__()
        first, second = nn.Conv2d(3, 48, 3, 2, 1), nn.Conv2d(48, 96, 3, 2, 1)
        self.stem = nn.Sequential(first, ChannelNorm(48), nn.GELU(), second, ChannelNorm(96), nn.GELU())

    def forward(self, x):
        return self.stem(x)


def source(arch):
    """The authors' implementation of one of our networks."""
    if arch == "resnet-18":
        return shuffle(resnet18(num_classes=NUM_CLASSES))
    if arch == "wrn-16-1":
        return shuffle(TradesWideResNet(16, 1, NUM_CLASSES))
    net = timm.create_model("convnext_tiny", num_classes=NUM_CLASSES)
    net.stem = ConvStem()
    return shuffle(net)


def shuffle(net, seed=0):
    """Moves every weight and statistic away from its start, so that no two tensors can be confused."""
    rng = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=rng)
            value.copy_(0.5 + noise if value.ndim == 1 else value + 0.1 * value.std() * noise)
        elif name.endswith("num_batches_tracked"):
            value.fill_(7)
    return net.eval()


def with_prefix(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def robustness_file(state, mean=MEAN, std=STD, key="model"):
    normaliser = {"new_mean": torch.tensor(mean)[:, None, None], "new_std": torch.tensor(std)[:, None, None]}
    attacker = {**with_prefix("normalize.", normaliser), **with_prefix("model.", state)}
    wrapped = {
        **with_prefix("normalizer.", normaliser),
        **with_prefix("model.", state),
        **with_prefix("attacker.", attacker),
    }
    optimiser = {"state": {}, "param_groups": [{"lr": 0.1}]}
    return {key: with_prefix("module.", wrapped), "optimizer": optimiser, "epoch": 90}


def normaliser(names, mean=MEAN, std=STD):
    shape = (1, -1, 1, 1)
    return {names[0]: torch.tensor(mean).view(shape), names[1]: torch.tensor(std).view(shape)}


def network(arch, *, num_classes=NUM_CLASSES, mean=MEAN, std=STD, seed=1):
    torch.manual_seed(seed)
    return build_model(ModelSpec(arch, num_classes, 3, 32, mean, std)).eval()


def assert_same_logits(model, source, images, mean=MEAN, std=STD):
    with torch.no_grad():
        ours = model(images)
        theirs = source((images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])
    assert ours.std() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def refused(model, file, load=load_published):
    """The error's one line; the model is as it was."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load(model, file)
    assert_same_state(dict(model.state_dict()), before)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)
