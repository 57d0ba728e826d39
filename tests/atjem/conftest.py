"""Tiny networks and images that the tests of the atjem room share."""

import pytest
import torch
from torch import nn

from atjem.models.registry import ModelSpec, build_model

NUM_CLASSES = 4


@pytest.fixture(autouse=True)
def one_thread():
    """Results that are compared bit for bit do not depend on how many cores there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_model():
    """A seeded wrn-10-1 for 8x8 images with one channel, in eval mode."""

    def make(seed=0, *, dtype=torch.float32, mean=(0.5,), std=(0.25,)):
        torch.manual_seed(seed)
        spec = ModelSpec("wrn-10-1", NUM_CLASSES, channels=1, image_size=8, mean=mean, std=std)
        return build_model(spec).to(dtype).eval()

    return make


@pytest.fixture
def make_linear():
    """The classifier f(x) = W x over flattened pixels, whose gradients are known."""

    def make(weight):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
        linear.weight.data.copy_(weight)
        return nn.Sequential(nn.Flatten(), linear).eval()

    return make


@pytest.fixture
def make_images():
    """Seeded uniform noise, (num, 1, 8, 8) in [0, 1], a part of it exactly 0 or 1."""

    def make(num=6, seed=0, dtype=torch.float32):
        noise = torch.rand(num, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        return (1.2 * noise - 0.1).clamp(0, 1).to(dtype)

    return make


@pytest.fixture
def make_labels():
    """Labels that cycle through the classes."""
    return lambda num=6: torch.arange(num) % NUM_CLASSES


@pytest.fixture(scope="session")
def images():
    """Seeded colour images, (3, 3, 32, 32)."""
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="session")
def resnet():
    """torchvision's ResNet-18; imports of the source networks wait until a test needs one."""
    from torchvision.models import resnet18

    from tests.support.published_sources import NUM_CLASSES, shuffle

    return shuffle(resnet18(num_classes=NUM_CLASSES))


@pytest.fixture(scope="session")
def wide():
    """TRADES' WRN-16-1."""
    from tests.support.published_sources import NUM_CLASSES, TradesWideResNet, shuffle

    return shuffle(TradesWideResNet(16, 1, NUM_CLASSES))


@pytest.fixture(scope="session")
def convnext():
    """A ConvNeXt-T-CvSt."""
    from tests.support.published_sources import NUM_CLASSES, convnext_cvst, shuffle

    return shuffle(convnext_cvst(NUM_CLASSES))


@pytest.fixture
def save(tmp_path):
    """Writes a torch file and returns its path."""

    def write(content):
        torch.save(content, tmp_path / "weights.pt")
        return tmp_path / "weights.pt"

    return write
