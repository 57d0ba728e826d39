"""ConvNeXt: timm's sizes, both stems, and features before the head."""

import pytest
import torch

from atjem.models.convnext import ConvNeXt


@pytest.mark.parametrize(
    ("size", "millions", "layers"),
    [
        ("tiny", 28.59, [48, 96]),
        ("small", 50.22, [48, 96]),
        ("base", 88.59, [64, 96, 128]),
        ("large", 197.77, [96, 144, 192]),
    ],
)
def test_sizes_and_convolutional_stems_are_the_published_ones(size, millions, layers):
    with torch.device("meta"):
        plain, cvst = (ConvNeXt(size, 1000, conv_stem=conv_stem) for conv_stem in (False, True))
    assert sum(p.numel() for p in plain.parameters()) / 1e6 == pytest.approx(millions, rel=2e-3)
    convolutions = [m for m in cvst.body.stem.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [conv.out_channels for conv in convolutions] == layers
    assert [conv.stride[0] for conv in convolutions] == [2, 2, 1][: len(layers)]
    assert {conv.kernel_size for conv in convolutions} == {(3, 3)}


@pytest.mark.parametrize(("conv_stem", "channels"), [(False, 3), (True, 1)])
def test_logits_are_linear_in_the_features(conv_stem, channels):
    model = ConvNeXt("tiny", 7, channels=channels, conv_stem=conv_stem).eval()
    x = torch.rand(2, channels, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.fc(model.features(x)), model(x))
    assert model(x).shape == (2, 7)
