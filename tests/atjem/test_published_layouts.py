"""Published files that do not fit are refused in one line, and leave the network as it was."""

import argparse

import pytest
import torch

from atjem.checkpoint import CheckpointError, save_model
from atjem.checkpoint_files import WEIGHTS_FILE, unusable_start
from atjem.published import load_published, load_start
from tests.support.published_sources import (
    IDENTITY,
    MEAN,
    NUM_CLASSES,
    STD,
    network,
    normaliser,
    robustness_file,
    with_prefix,
)


def refused(model, file, load=load_published):
    """The error's one line; the model is as it was."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load(model, file)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_and_unexpected_tensors_have_the_files_names(resnet, save):
    content = robustness_file(resnet.state_dict())
    content["model"]["module.model.head.bias"] = content["model"].pop("module.model.fc.bias")
    message = refused(network("resnet-18"), save(content))
    assert "missing ['module.model.fc.bias'], unexpected ['module.model.head.bias']" in message


def test_one_tensor_too_many_is_refused(wide, save):
    message = refused(network("wrn-16-1"), save({**wide.state_dict(), "rot.bias": torch.zeros(4)}))
    assert "missing [], unexpected ['rot.bias']" in message


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
    ],
    ids=["mean", "std", "grey"],
)
def test_other_normalisation_is_refused(wide, save, names, mean, std, given):
    content = {**normaliser(names, mean, std), **wide.state_dict()}
    name = names[mean == MEAN]
    assert f"normalises by {name} = {given}, the network by" in refused(network("wrn-16-1"), save(content))


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


def unusable_paths(folder):
    (folder / "half").mkdir()
    (folder / "half" / WEIGHTS_FILE).touch()
    (folder / "weights.safetensors").touch()
    return {
        "nowhere.pt": "no such file or folder",
        "half": "has no model.json",
        "weights.safetensors": "is neither a model folder nor a published file",
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
