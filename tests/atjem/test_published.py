"""Published weights: logits are the source network's, and files come back exactly."""

import re

import pytest
import torch
import torchvision

from atjem.checkpoint import save_model
from atjem.models.registry import ModelSpec, build_model
from atjem.published import export_published, load_published, load_start
from atjem.published_layouts import LAYOUTS, split_wrappers
from tests.support.published_sources import (
    IDENTITY,
    MEAN,
    NUM_CLASSES,
    STD,
    TradesWideResNet,
    assert_same_logits,
    assert_same_weights,
    network,
    normaliser,
    robustness_file,
    shuffle,
    with_prefix,
)


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_robustness(resnet, images, save, key):
    model = network("resnet-18")
    assert load_published(model, save(robustness_file(resnet.state_dict(), key=key))) == "robustness"
    assert_same_logits(model, resnet, images)


def test_robustness_bottlenecks(images, save):
    source = shuffle(torchvision.models.resnet50(num_classes=NUM_CLASSES))
    model = network("resnet-50")
    load_published(model, save(robustness_file(source.state_dict())))
    assert_same_logits(model, source, images)


def robustbench_files(state):
    plain = {name: value for name, value in state.items() if not name.startswith("sub_block1.")}
    return {
        "plain": plain,
        "sub-blocks": state,
        "data-parallel": with_prefix("module.", state),
        "under-state-dict": {"state_dict": with_prefix("module.", plain), "epoch": 3},
        "mu-sigma": {**normaliser(("mu", "sigma")), **plain},
        "normalised": {**normaliser(("normalize.mean", "normalize.std")), **with_prefix("model.", plain)},
        "without-counters": {k: v for k, v in plain.items() if not k.endswith("num_batches_tracked")},
    }


@pytest.mark.parametrize("depth", [10, 16])
@pytest.mark.parametrize("form", list(robustbench_files({})))
def test_robustbench_wide_resnets(depth, form, images, save):
    source = shuffle(TradesWideResNet(depth, 1, NUM_CLASSES))
    model = network(f"wrn-{depth}-1")
    assert load_published(model, save(robustbench_files(source.state_dict())[form])) == "robustbench"
    assert_same_logits(model, source, images)


def test_robustbench_resnet(resnet, images, save):
    model = network("resnet-18")
    content = {
        **normaliser(("normalize.mean", "normalize.std")),
        **with_prefix("model.", resnet.state_dict()),
    }
    assert load_published(model, save(with_prefix("module.", content))) == "robustbench"
    assert_same_logits(model, resnet, images)


@pytest.mark.parametrize("prefix", ["base_model.", "module.base_model.", "base_model.module.model."])
def test_convnext_cvst(convnext, images, save, prefix):
    model = network("convnext-tiny-cvst", mean=IDENTITY[0], std=IDENTITY[1])
    assert load_published(model, save(with_prefix(prefix, convnext.state_dict()))) == "convnext-cvst"
    assert_same_logits(model, convnext, images, *IDENTITY)


def test_convnext_cvst_normalised_with_flat_stem(convnext, images, save):
    state = {name.replace("stem.stem.", "stem."): value for name, value in convnext.state_dict().items()}
    content = {**normaliser(("normalize.mean", "normalize.std")), **with_prefix("model.", state)}
    model = network("convnext-tiny-cvst")
    assert load_published(model, save(with_prefix("base_model.", content))) == "convnext-cvst"
    assert_same_logits(model, convnext, images)


@pytest.mark.parametrize("counter", ["n_averaged", "module.n_averaged"])
@pytest.mark.parametrize(
    ("arch", "source"),
    [("resnet-18", "resnet"), ("wrn-16-1", "wide"), ("convnext-tiny-cvst", "convnext")],
)
def test_dat(arch, source, counter, images, save, request):
    source = request.getfixturevalue(source)
    model = network(arch)
    content = {counter: torch.tensor(9), **with_prefix("module.module.", source.state_dict())}
    assert load_published(model, save(content)) == "dat"
    assert_same_logits(model, source, images)


def test_rounded_normalisation_is_accepted(wide, save):
    rounded = tuple(value + 5e-5 for value in MEAN)
    content = {**normaliser(("mu", "sigma"), rounded, STD), **wide.state_dict()}
    assert load_published(network("wrn-16-1"), save(content)) == "robustbench"


def test_files_from_before_archives(wide, images, tmp_path):
    model = network("wrn-16-1")
    torch.save(wide.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    load_published(model, tmp_path / "old.pth")
    assert_same_logits(model, wide, images)


@pytest.mark.parametrize(
    ("arch", "layout"),
    [
        ("resnet-18", "robustness"),
        ("resnet-18", "robustbench"),
        ("resnet-18", "dat"),
        ("wrn-16-1", "robustbench"),
        ("wrn-16-1", "dat"),
        ("convnext-tiny-cvst", "convnext-cvst"),
        ("convnext-tiny-cvst", "dat"),
    ],
)
@pytest.mark.parametrize("normalisation", [(MEAN, STD), IDENTITY], ids=["normalised", "raw"])
def test_round_trip(arch, layout, normalisation, tmp_path):
    mean, std = normalisation
    model, other = (network(arch, mean=mean, std=std, seed=seed) for seed in (1, 2))
    shuffle(model.backbone)
    export_published(model, layout, tmp_path / "weights.pt")
    assert load_published(other, tmp_path / "weights.pt") == layout
    assert_same_weights(model, other)


def exported_names(model, layout, file):
    export_published(model, layout, file)
    content = torch.load(file, weights_only=True)
    return set(content["model"] if layout == "robustness" else content)


def test_exports_have_their_authors_names(resnet, wide, convnext, tmp_path):
    file = tmp_path / "weights.pt"
    robustness = set(robustness_file(resnet.state_dict())["model"])
    assert exported_names(network("resnet-18"), "robustness", file) == robustness
    trades = {name for name in wide.state_dict() if not name.startswith("sub_block1.")}
    raw = network("wrn-16-1", mean=IDENTITY[0], std=IDENTITY[1])
    assert exported_names(raw, "robustbench", file) == trades
    normalised = {"normalize.mean", "normalize.std", *with_prefix("model.", dict.fromkeys(trades))}
    assert exported_names(network("wrn-16-1"), "robustbench", file) == normalised
    stage2 = {"module.n_averaged", *with_prefix("module.module.", dict.fromkeys(trades))}
    assert exported_names(network("wrn-16-1"), "dat", file) == stage2
    cvst = set(with_prefix("base_model.", convnext.state_dict()))
    raw = network("convnext-tiny-cvst", mean=IDENTITY[0], std=IDENTITY[1])
    assert exported_names(raw, "convnext-cvst", file) == cvst


def test_exported_weights_run_in_the_authors_network(images, tmp_path):
    model, source = network("wrn-16-1"), TradesWideResNet(16, 1, NUM_CLASSES).eval()
    shuffle(model.backbone)
    export_published(model, "dat", tmp_path / "weights.pt")
    content = torch.load(tmp_path / "weights.pt", weights_only=True)
    state = {name.removeprefix("module.module."): value for name, value in content.items()}
    missing, unexpected = source.load_state_dict(state, strict=False)
    assert all(name.startswith("sub_block1.") for name in missing)
    assert unexpected == ["module.n_averaged"]
    assert_same_logits(model, source, images)


@pytest.mark.parametrize(
    ("layout", "arch", "message"),
    [
        ("timm", "wrn-10-1", f"layout='timm' is unknown; use one of {', '.join(LAYOUTS)}"),
        (
            "robustness",
            "wrn-10-1",
            "layout 'robustness' is for resnet-18, resnet-50, wrn-50-4, not for wrn-10-1",
        ),
        ("convnext-cvst", "resnet-18", "layout 'convnext-cvst' is for convnext-SIZE-cvst, not for resnet-18"),
    ],
)
def test_export_to_an_unfit_layout_says_what_fits(layout, arch, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        export_published(network(arch), layout, tmp_path / "weights.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fc.bias", ("", "fc.bias")),
        ("module.attacker.model.fc.bias", ("module.", "attacker.model.fc.bias")),
        ("base_model.module.model.fc.bias", ("base_model.module.model.", "fc.bias")),
        ("models.fc.bias", ("", "models.fc.bias")),
    ],
)
def test_split_wrappers(name, expected):
    assert split_wrappers(name) == expected


def test_start_from_a_file_and_from_a_folder(wide, save, tmp_path):
    from_file, from_folder = network("wrn-16-1"), network("wrn-16-1", seed=2)
    load_start(from_file, save(wide.state_dict()))
    folder = tmp_path / "model"
    folder.mkdir()
    save_model(from_file, folder)
    load_start(from_folder, folder)
    assert_same_weights(from_file, from_folder)


def test_model_folder_brings_its_own_normalisation(tmp_path):
    """What model.json says afterwards is what the network does."""
    made = build_model(ModelSpec("wrn-10-1", 3, 1, 8, (0.3,), (0.2,)))
    save_model(made, tmp_path)
    model = build_model(ModelSpec("wrn-10-1", 3, 1, 8, (0.5,), (0.5,)))
    load_start(model, tmp_path)
    assert (model.spec.mean, model.spec.std) == ((0.3,), (0.2,))
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(model.eval()(x), made.eval()(x))
