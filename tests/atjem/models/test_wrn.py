"""Wide residual networks: their published sizes, and which depths there are."""

import pytest
import torch

from atjem.models.wrn import WideResNet


@pytest.mark.parametrize(("depth", "expected"), [(28, 36.5e6), (34, 46.2e6)])
def test_number_of_parameters_is_the_published_one(depth, expected):
    with torch.device("meta"):
        model = WideResNet(depth, 10, num_classes=10)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(expected, rel=0.002)


@pytest.mark.parametrize("depth", [4, 11, 27])
def test_wrong_depth_says_what_is_allowed(depth):
    with pytest.raises(ValueError, match=f"6n [+] 4 .* not {depth}"):
        WideResNet(depth, 1, num_classes=10)
