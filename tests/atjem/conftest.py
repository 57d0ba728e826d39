"""Tiny networks and images that the tests of the atjem room share."""

import pytest
import torch
from torch import nn

from tests.support.learning import tiny_network


@pytest.fixture(autouse=True)
def one_thread():
    """Results that are compared bit for bit do not depend on how many cores there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_model():
    """`tiny_network` in eval mode."""
    return lambda seed=0, **own: tiny_network(seed, **own).eval()


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
    return lambda num=6: torch.arange(num) % 4


@pytest.fixture(scope="session")
def images():
    """Seeded colour images, (3, 3, 32, 32)."""
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="session")
def sources():
    """The authors' networks by our architectures; their imports wait until a test needs them."""
    from tests.support.published_sources import source

    return {arch: source(arch) for arch in ("resnet-18", "wrn-16-1", "convnext-tiny-cvst")}


@pytest.fixture
def save(tmp_path):
    """Writes a torch file and returns its path."""

    def write(content):
        torch.save(content, tmp_path / "weights.pt")
        return tmp_path / "weights.pt"

    return write
