"""Published weights: logits are the source network's, files come back exactly, unfit ones are refused."""

import re

import pytest
import torch
import torchvision

from atjem.checkpoint import save_model
from atjem.models.registry import ModelSpec, build_model
from atjem.published import export_published, load_published, load_start
from atjem.published_layouts import LAYOUTS
from tests.support.learning import assert_same_state
from tests.support.published_sources import (
    IDENTITY,
    MEAN,
    NUM_CLASSES,
    STD,
    TradesWideResNet,
    assert_same_logits,
    network,
    normaliser,
    refused,
    robustness_file,
    shuffle,
    with_prefix,
)

NORMALIZE = ("normalize.mean", "normalize.std")


# Loading


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_robustness(sources, images, save, key):
    model, source = network("resnet-18"), sources["resnet-18"]
    assert load_published(model, save(robustness_file(source.state_dict(), key=key))) == "robustness"
    assert_same_logits(model, source, images)


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
        "rounded": {**normaliser(("mu", "sigma"), tuple(value + 5e-5 for value in MEAN)), **plain},
        "normalised": {**normaliser(NORMALIZE), **with_prefix("model.", plain)},
        "without-counters": {k: v for k, v in plain.items() if not k.endswith("num_batches_tracked")},
    }


@pytest.mark.parametrize("depth", [10, 16])
@pytest.mark.parametrize("form", list(robustbench_files({})))
def test_robustbench_wide_resnets(depth, form, images, save):
    source = shuffle(TradesWideResNet(depth, 1, NUM_CLASSES))
    model = network(f"wrn-{depth}-1")
    assert load_published(model, save(robustbench_files(source.state_dict())[form])) == "robustbench"
    assert_same_logits(model, source, images)


def test_robustbench_resnet(sources, images, save):
    model, source = network("resnet-18"), sources["resnet-18"]
    content = {**normaliser(NORMALIZE), **with_prefix("model.", source.state_dict())}
    assert load_published(model, save(with_prefix("module.", content))) == "robustbench"
    assert_same_logits(model, source, images)


def test_convnext_cvst(sources, images, save):
    source = sources["convnext-tiny-cvst"]
    model = network("convnext-tiny-cvst", mean=IDENTITY[0], std=IDENTITY[1])
    content = with_prefix("base_model.module.model.", source.state_dict())
    assert load_published(model, save(content)) == "convnext-cvst"
    assert_same_logits(model, source, images, *IDENTITY)


def test_convnext_cvst_normalised_with_flat_stem(sources, images, save):
    source = sources["convnext-tiny-cvst"]
    state = {name.replace("stem.stem.", "stem."): value for name, value in source.state_dict().items()}
    content = {**normaliser(NORMALIZE), **with_prefix("model.", state)}
    model = network("convnext-tiny-cvst")
    assert load_published(model, save(with_prefix("base_model.", content))) == "convnext-cvst"
    assert_same_logits(model, source, images)


@pytest.mark.parametrize(
    ("arch", "counter"),
    [
        ("resnet-18", "n_averaged"),
        ("wrn-16-1", "module.n_averaged"),
        ("convnext-tiny-cvst", "module.n_averaged"),
    ],
)
def test_dat(arch, counter, sources, images, save):
    model, source = network(arch), sources[arch]
    content = {counter: torch.tensor(9), **with_prefix("module.module.", source.state_dict())}
    assert load_published(model, save(content)) == "dat"
    assert_same_logits(model, source, images)


# Writing


@pytest.mark.parametrize(
    ("arch", "layout", "normalisation"),
    [
        ("resnet-18", "robustness", (MEAN, STD)),
        ("resnet-18", "robustness", IDENTITY),
        ("wrn-16-1", "robustbench", (MEAN, STD)),
        ("wrn-16-1", "robustbench", IDENTITY),
        ("wrn-16-1", "dat", (MEAN, STD)),
        ("convnext-tiny-cvst", "convnext-cvst", (MEAN, STD)),
    ],
)
def test_round_trip(arch, layout, normalisation, tmp_path):
    mean, std = normalisation
    model, other = (network(arch, mean=mean, std=std, seed=seed) for seed in (1, 2))
    shuffle(model.backbone)
    export_published(model, layout, tmp_path / "weights.pt")
    assert load_published(other, tmp_path / "weights.pt") == layout
    assert_same_state(dict(other.state_dict()), dict(model.state_dict()))


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
        ("robustness", "wrn-10-1", "'robustness' is for resnet-18, resnet-50, wrn-50-4, not for wrn-10-1"),
        ("convnext-cvst", "resnet-18", "'convnext-cvst' is for convnext-SIZE-cvst, not for resnet-18"),
    ],
)
def test_export_to_an_unfit_layout_says_what_fits(layout, arch, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        export_published(network(arch), layout, tmp_path / "weights.pt")
    assert list(tmp_path.iterdir()) == []


# Starts of training


def test_start_from_a_file_and_from_a_folder(sources, save, tmp_path):
    from_file, from_folder = network("wrn-16-1"), network("wrn-16-1", seed=2)
    load_start(from_file, save(sources["wrn-16-1"].state_dict()))
    (tmp_path / "model").mkdir()
    save_model(from_file, tmp_path / "model")
    load_start(from_folder, tmp_path / "model")
    assert_same_state(dict(from_folder.state_dict()), dict(from_file.state_dict()))


def test_model_folder_brings_its_own_normalisation(tmp_path):
    """What model.json says afterwards is what the network does."""
    made = build_model(ModelSpec("wrn-10-1", 3, 1, 8, (0.3,), (0.2,)))
    save_model(made, tmp_path)
    model = build_model(ModelSpec("wrn-10-1", 3, 1, 8, (0.5,), (0.5,)))
    load_start(model, tmp_path)
    assert (model.spec.mean, model.spec.std) == ((0.3,), (0.2,))
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(model.eval()(x), made.eval()(x))


def test_unusable_start_says_why(tmp_path):
    assert "no such file or folder" in refused(network("wrn-10-1"), tmp_path / "nowhere.pt", load_start)


# Refusals, in the file's own names


def test_missing_and_unexpected_tensors(sources, save):
    content = robustness_file(sources["resnet-18"].state_dict())
    content["model"]["module.model.head.bias"] = content["model"].pop("module.model.fc.bias")
    message = refused(network("resnet-18"), save(content))
    assert "missing ['module.model.fc.bias'], unexpected ['module.model.head.bias']" in message


def test_a_missing_stem(sources, save):
    state = with_prefix("base_model.", sources["convnext-tiny-cvst"].state_dict())
    del state["base_model.stem.stem.3.weight"]
    message = refused(network("convnext-tiny-cvst"), save(state))
    assert "missing ['base_model.stem.stem.3.weight'], unexpected []" in message


@pytest.mark.parametrize(
    ("arch", "prefix", "added", "said"),
    [
        ("wrn-16-1", "", {"rot.bias": (4,)}, "missing [], unexpected ['rot.bias']"),
        ("wrn-22-1", "module.", {}, "does not fit wrn-22-1: missing ['module.block1.layer.2.bn1.weight'"),
        ("resnet-18", "", {}, "unexpected ['block1.layer.0.bn1.weight'"),
        (
            "wrn-16-1",
            "",
            {"block2.layer.1.conv2.weight": (32, 32, 1, 1)},
            "block2.layer.1.conv2.weight has shape (32, 32, 1, 1), the network's (32, 32, 3, 3)",
        ),
        ("wrn-16-1", "", {"module.fc.bias": (5,)}, "has fc.bias twice: fc.bias and module.fc.bias"),
    ],
    ids=["one-too-many", "other-depth", "other-family", "other-shape", "two-names"],
)
def test_other_tensors(arch, prefix, added, said, sources, save):
    state = with_prefix(prefix, sources["wrn-16-1"].state_dict())
    state |= {name: torch.zeros(shape) for name, shape in added.items()}
    assert said in refused(network(arch), save(state))


def test_another_number_of_classes(sources, save):
    file = save(robustness_file(sources["resnet-18"].state_dict()))
    expected = (
        "does not fit resnet-18: it classifies into 5 classes, the network into 10 "
        "(module.model.fc.weight has shape (5, 512), the network's (10, 512))"
    )
    assert expected in refused(network("resnet-18", num_classes=10), file)
    file = save(sources["convnext-tiny-cvst"].state_dict())
    message = refused(network("convnext-tiny-cvst", num_classes=7), file)
    assert "it classifies into 5 classes, the network into 7 (head.fc.weight" in message


def test_other_normalisation_by_robustness(sources, save):
    state = sources["resnet-18"].state_dict()
    message = refused(network("resnet-18"), save(robustness_file(state, mean=(0.5, 0.5, 0.5))))
    assert (
        "module.normalizer.new_mean = (0.5, 0.5, 0.5), the network by mean = (0.485, 0.456, 0.406)" in message
    )
    content = robustness_file(state)
    content["model"]["module.attacker.normalize.new_std"] = torch.ones(3, 1, 1)
    message = refused(network("resnet-18"), save(content))
    assert "module.attacker.normalize.new_std = (1.0, 1.0, 1.0)" in message


@pytest.mark.parametrize("names", [("mu", "sigma"), NORMALIZE, ("mean", "std")])
@pytest.mark.parametrize(
    ("mean", "std", "given"),
    [
        ((0.4914, 0.4822, 0.4465), STD, "(0.4914, 0.4822, 0.4465)"),
        (MEAN, (0.2, 0.2, 0.2), "(0.2, 0.2, 0.2)"),
        ((0.5,), STD, "(0.5,)"),
    ],
    ids=["mean", "std", "grey"],
)
def test_other_normalisation(sources, save, names, mean, std, given):
    content = {**normaliser(names, mean, std), **sources["wrn-16-1"].state_dict()}
    name = names[mean == MEAN]
    assert f"normalises by {name} = {given}, the network by" in refused(network("wrn-16-1"), save(content))
