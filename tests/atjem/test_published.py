"""Published weights: logits are the source network's, files come back exactly, misfits are refused."""

import argparse
import re

import pytest
import torch
import torchvision
from published_sources import (
    MEAN,
    STD,
    TradesWideResNet,
    convnext_cvst,
    normaliser,
    robustness_file,
    shuffle,
    with_prefix,
)

from atjem.checkpoint import CheckpointError, save_model
from atjem.checkpoint_files import WEIGHTS_FILE, unusable_start
from atjem.models.registry import ModelSpec, build_model
from atjem.published import export_published, load_published, load_start
from atjem.published_layouts import LAYOUTS, split_wrappers

NUM_CLASSES = 5
IDENTITY = ((0.0,) * 3, (1.0,) * 3)


def network(arch, *, num_classes=NUM_CLASSES, mean=MEAN, std=STD, seed=1):
    torch.manual_seed(seed)
    return build_model(ModelSpec(arch, num_classes, 3, 32, mean, std)).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def resnet():
    return shuffle(torchvision.models.resnet18(num_classes=NUM_CLASSES))


@pytest.fixture(scope="module")
def wide():
    return shuffle(TradesWideResNet(16, 1, NUM_CLASSES))


@pytest.fixture(scope="module")
def convnext():
    return shuffle(convnext_cvst(NUM_CLASSES))


@pytest.fixture
def save(tmp_path):
    def write(content, name="weights.pt"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


def assert_same_logits(model, source, images, mean=MEAN, std=STD):
    with torch.no_grad():
        ours = model(images)
        theirs = source((images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])
    assert ours.std() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def assert_same_weights(model, other):
    assert model.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def refused(model, file, load=load_published):
    """The error's one line; the model is as it was."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load(model, file)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


def test_missing_and_unexpected_tensors_have_the_files_names(resnet, save):
    content = robustness_file(resnet.state_dict())
    content["model"]["module.model.head.bias"] = content["model"].pop("module.model.fc.bias")
    message = refused(network("resnet-18"), save(content))
    assert "missing ['module.model.fc.bias'], unexpected ['module.model.head.bias']" in message


def test_a_missing_stem_has_the_files_name(convnext, save):
    state = with_prefix("base_model.", convnext.state_dict())
    del state["base_model.stem.stem.3.weight"]
    model = network("convnext-tiny-cvst", mean=IDENTITY[0], std=IDENTITY[1])
    assert "missing ['base_model.stem.stem.3.weight'], unexpected []" in refused(model, save(state))


def test_another_depth_is_refused(wide, save):
    message = refused(network("wrn-22-1"), save(with_prefix("module.", wide.state_dict())))
    assert "does not fit wrn-22-1: missing ['module.block1.layer.2.bn1.weight'" in message


def test_another_family_is_refused(wide, save):
    assert "unexpected ['block1.layer.0.bn1.weight'" in refused(network("resnet-18"), save(wide.state_dict()))


def test_another_number_of_classes_is_said_in_words(resnet, save):
    file = save(robustness_file(resnet.state_dict()))
    expected = (
        "does not fit resnet-18: it classifies into 5 classes, the network into 10 "
        "(module.model.fc.weight has shape (5, 512), the network's (10, 512))"
    )
    assert expected in refused(network("resnet-18", num_classes=10), file)


def test_classes_of_a_convnext_are_said_in_words(convnext, save):
    message = refused(network("convnext-tiny-cvst", num_classes=7), save(convnext.state_dict()))
    assert "it classifies into 5 classes, the network into 7 (head.fc.weight" in message


def test_another_shape_is_named(wide, save):
    state = {**wide.state_dict(), "block2.layer.1.conv2.weight": torch.zeros(32, 32, 1, 1)}
    message = refused(network("wrn-16-1"), save(state))
    assert "block2.layer.1.conv2.weight has shape (32, 32, 1, 1), the network's (32, 32, 3, 3)" in message


def test_a_tensor_under_two_names_is_refused(wide, save):
    state = {**wide.state_dict(), "module.fc.bias": torch.zeros(NUM_CLASSES)}
    assert "has fc.bias twice: fc.bias and module.fc.bias" in refused(network("wrn-16-1"), save(state))


def test_robustness_other_normalisation_is_refused(resnet, save):
    file = save(robustness_file(resnet.state_dict(), mean=(0.5, 0.5, 0.5)))
    message = refused(network("resnet-18"), file)
    assert (
        "module.normalizer.new_mean = (0.5, 0.5, 0.5), the network by mean = (0.485, 0.456, 0.406)" in message
    )


def test_the_attackers_normalisation_is_checked_too(resnet, save):
    content = robustness_file(resnet.state_dict())
    content["model"]["module.attacker.normalize.new_std"] = torch.ones(3, 1, 1)
    assert "module.attacker.normalize.new_std = (1.0, 1.0, 1.0)" in refused(
        network("resnet-18"), save(content)
    )


@pytest.mark.parametrize("names", [("mu", "sigma"), ("normalize.mean", "normalize.std"), ("mean", "std")])
@pytest.mark.parametrize(
    ("mean", "std", "given"),
    [
        ((0.4914, 0.4822, 0.4465), STD, "(0.4914, 0.4822, 0.4465)"),
        (MEAN, (0.2, 0.2, 0.2), "(0.2, 0.2, 0.2)"),
        ((0.5,), STD, "(0.5,)"),
        ((float("nan"),) * 3, STD, "(nan, nan, nan)"),
    ],
    ids=["mean", "std", "grey", "nan"],
)
def test_other_normalisation_is_refused(wide, save, names, mean, std, given):
    content = {**normaliser(names, mean, std), **wide.state_dict()}
    name = names[mean == MEAN]
    assert f"normalises by {name} = {given}, the network by" in refused(network("wrn-16-1"), save(content))


def test_rounded_normalisation_is_accepted(wide, save):
    rounded = tuple(value + 5e-5 for value in MEAN)
    content = {**normaliser(("mu", "sigma"), rounded, STD), **wide.state_dict()}
    assert load_published(network("wrn-16-1"), save(content)) == "robustbench"


class Unpickled:
    def __reduce__(self):
        return (pytest.fail, ("code in the file ran",))


def test_pickled_objects_are_refused_and_never_run(wide, save):
    message = refused(network("wrn-16-1"), save({"model": wide.state_dict(), "args": Unpickled()}))
    assert "holds pickled objects besides tensors" in message
    assert "torch.save({'model': torch.load('weights.pt', weights_only=False, pickle_module=dill)" in message


def test_the_pickled_object_is_named(wide, save):
    content = {"state_dict": wide.state_dict(), "args": argparse.Namespace(lr=0.1)}
    assert "besides tensors (argparse.Namespace), and" in refused(network("wrn-16-1"), save(content))


def test_files_from_before_archives(wide, images, tmp_path):
    model = network("wrn-16-1")
    torch.save(wide.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    load_published(model, tmp_path / "old.pth")
    assert_same_logits(model, wide, images)


@pytest.mark.parametrize(
    "content",
    [b"", b"not torch", b"\xff" * 64, b"PK", b"PK\x03\x04" + b"\0" * 64, b"\x80", b"\x80\x02."],
    ids=["empty", "text", "bytes", "short-zip", "broken-zip", "short-pickle", "pickle"],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "weights.pt").write_bytes(content)
    refused(network("wrn-10-1"), tmp_path / "weights.pt")


def test_truncated_files_are_refused(wide, save):
    file = save(wide.state_dict())
    file.write_bytes(file.read_bytes()[:-1000])
    assert "is not a torch checkpoint that can be read" in refused(network("wrn-16-1"), file)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (torch.zeros(3), "has no state dict"),
        ({}, "has no state dict"),
        ({"model": None}, "has no state dict"),
        ({"epoch": 3, "weights": {"fc.bias": torch.zeros(3)}}, "'epoch' is of type int"),
        ({"state_dict": {"fc.bias": [0.0]}}, "'fc.bias' is of type list"),
        ({0: torch.zeros(3)}, "0 is of type Tensor"),
    ],
    ids=["tensor", "empty", "none", "other-key", "lists", "number-key"],
)
def test_other_contents_are_refused(save, content, reason):
    assert reason in refused(network("wrn-10-1"), save(content))


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


def unusable_paths(folder):
    (folder / "half").mkdir()
    (folder / "half" / WEIGHTS_FILE).touch()
    (folder / "weights.safetensors").touch()
    return {
        "nowhere.pt": "no such file or folder",
        "half": "has no model.json",
        "weights.safetensors": "give a model folder or a .pt, .pth or .ckpt file",
        "x" * 300: "File name too long",
    }


def test_unusable_starts_say_why(tmp_path):
    for name, reason in unusable_paths(tmp_path).items():
        assert unusable_start(tmp_path / name) == reason
        assert reason in refused(network("wrn-10-1"), tmp_path / name, load_start)


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "imagenet.l2.eps3.ckpt"])
def test_usable_files(tmp_path, name):
    (tmp_path / name).touch()
    assert unusable_start(tmp_path / name) == ""


def test_usable_folder(tmp_path):
    save_model(network("wrn-10-1"), tmp_path)
    assert unusable_start(tmp_path) == ""
