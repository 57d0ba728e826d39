"""The registry and its networks: names, sizes, and normalisation as the first layer."""

import re
from dataclasses import replace

import pytest
import torch

from atjem.models.names import ARCHITECTURES, known_arch
from atjem.models.registry import ModelSpec, build_model
from atjem.models.wrn import WideResNet

RGB = ModelSpec(
    "wrn-10-1", num_classes=10, channels=3, image_size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2)
)
WRONG_NAMES = [
    "vgg-16",
    "wrn",
    "wrn-11-1",
    "wrn-4-1",
    "wrn-10-0",
    "wrn-010-1",
    "WRN-10-1",
    "wrn-10-1 ",
    "",
]


@pytest.mark.parametrize("arch", WRONG_NAMES)
def test_unknown_arch_says_what_is_allowed(arch):
    assert not known_arch(arch)
    with pytest.raises(ValueError, match=re.escape(f"arch={arch!r} is unknown; use {ARCHITECTURES}")):
        build_model(replace(RGB, arch=arch))


@pytest.mark.parametrize("arch", ["wrn-10-1", "wrn-16-2", "wrn-34-10"])
def test_known_arch(arch):
    assert known_arch(arch)


@pytest.mark.parametrize(
    ("arch", "expected"), [("wrn-28-10", 36.5e6), ("wrn-34-10", 46.2e6)], ids=["wrn-28-10", "wrn-34-10"]
)
def test_number_of_parameters_is_the_published_one(arch, expected):
    with torch.device("meta"):
        model = build_model(replace(RGB, arch=arch))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(expected, rel=0.002)


@pytest.mark.parametrize("depth", [4, 11, 27], ids=["too-shallow", "11", "27"])
def test_wrong_depth_says_what_is_allowed(depth):
    with pytest.raises(ValueError, match=f"6n [+] 4 .* not {depth}"):
        WideResNet(depth, 1, num_classes=10)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
def test_number_of_channels(channels):
    spec = replace(RGB, channels=channels, mean=(0.5,) * channels, std=(0.2,) * channels)
    logits = build_model(spec).eval()(torch.rand(2, channels, 8, 8))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


def test_grey_model_refuses_colour_images(make_model):
    with pytest.raises(RuntimeError, match="channels"):
        make_model()(torch.rand(2, 3, 8, 8))


def test_normalisation_is_the_first_layer(make_model, make_images):
    x = make_images()
    normalising, plain = make_model(mean=(0.3,), std=(0.2,)), make_model(mean=(0.0,), std=(1.0,))
    torch.testing.assert_close(normalising(x), plain((x - 0.3) / 0.2))
    assert not torch.allclose(normalising(x), plain(x))


def test_normalisation_is_by_channel():
    model = build_model(RGB)
    x = torch.rand(2, 3, 4, 4)
    expected = torch.stack([(x[:, c] - RGB.mean[c]) / RGB.std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(model.normalize(x), expected)


def test_normalisation_is_not_trained(make_model):
    names = {name for name, _ in make_model().named_parameters()}
    assert not any(name.startswith("normalize") for name in names)


def test_logits_are_linear_in_the_features(make_model, make_images):
    model, x = make_model(), make_images()
    features = model.features(x)
    assert features.shape == (6, 64)
    assert (features >= 0).all()
    torch.testing.assert_close(model.backbone.fc(features), model(x))


def test_weights_come_from_the_global_seed(make_model, make_images):
    x = make_images()
    assert torch.equal(make_model(seed=3)(x), make_model(seed=3)(x))
    assert not torch.equal(make_model(seed=3)(x), make_model(seed=4)(x))


def test_float64_is_kept(make_model, make_images):
    assert make_model(dtype=torch.float64)(make_images(dtype=torch.float64)).dtype == torch.float64


def test_logits_under_autocast_are_float32(make_model, make_images):
    model, x = make_model(), make_images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(x)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, model(x), rtol=0.1, atol=0.05)


def test_steps_finer_than_bfloat16_reach_the_logits_under_autocast(make_model):
    # Next to 1, bfloat16 resolves 1/128: a stem in bfloat16 would not see this change.
    model, x = make_model(mean=(0.0,), std=(1.0,)), torch.ones(1, 1, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stems = []
        model.backbone.conv1.register_forward_hook(lambda module, args, output: stems.append(output))
        model(x)
        model(x - 1e-3)
    assert stems[0].dtype == torch.float32
    assert not torch.equal(stems[0], stems[1])


@pytest.mark.parametrize(
    ("arch", "millions"),
    [
        ("resnet-18", 11.69),
        ("resnet-50", 25.56),
        ("wrn-50-4", 223.4),
        ("convnext-tiny", 28.59),
        ("convnext-small", 50.22),
        ("convnext-base", 88.59),
        ("convnext-large", 197.77),
    ],
)
def test_published_parameter_counts(arch, millions):
    """torchvision's, robustness's and timm's own counts for 1,000 classes, without allocating weights."""
    with torch.device("meta"):
        model = build_model(ModelSpec(arch, 1000, 3, 224, (0.5,) * 3, (0.25,) * 3))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=2e-3)


@pytest.mark.parametrize("arch", ["resnet-18", "convnext-small", "convnext-small-cvst"])
@pytest.mark.parametrize("channels", [1, 3])
def test_large_image_networks_classify_and_give_features(arch, channels):
    torch.manual_seed(0)
    model = build_model(ModelSpec(arch, 7, channels, 64, (0.5,) * channels, (0.25,) * channels)).eval()
    x = torch.rand(2, channels, 64, 64)
    with torch.no_grad():
        logits = model(x)
        assert torch.allclose(model.backbone.fc(model.features(x)), logits, atol=1e-5)
    assert logits.shape == (2, 7)


@pytest.mark.parametrize(
    ("size", "layers"),
    [("tiny", [48, 96]), ("small", [48, 96]), ("base", [64, 96, 128]), ("large", [96, 144, 192])],
)
def test_convolutional_stem_is_the_published_one(size, layers):
    with torch.device("meta"):
        model = build_model(ModelSpec(f"convnext-{size}-cvst", 10, 3, 224, (0.0,) * 3, (1.0,) * 3))
    convolutions = [m for m in model.backbone.body.stem.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [conv.out_channels for conv in convolutions] == layers
    assert [conv.stride[0] for conv in convolutions] == [2, 2, 1][: len(layers)]
    assert {conv.kernel_size for conv in convolutions} == {(3, 3)}
