"""Residual networks for larger images: torchvision's and robustness' sizes, and features before the head."""

import pytest
import torch

from atjem.models.resnet import ResNet


@pytest.mark.parametrize(
    ("arch", "millions"), [("resnet-18", 11.69), ("resnet-50", 25.56), ("wrn-50-4", 223.4)]
)
def test_published_parameter_counts(arch, millions):
    with torch.device("meta"):
        model = ResNet(arch, 1000)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=2e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_logits_are_linear_in_the_features(channels):
    model, x = ResNet("resnet-18", 7, channels).eval(), torch.rand(2, channels, 64, 64)
    with torch.no_grad():
        assert model.features(x).shape == (2, 512)
        torch.testing.assert_close(model.fc(model.features(x)), model(x))
    assert model(x).shape == (2, 7)
