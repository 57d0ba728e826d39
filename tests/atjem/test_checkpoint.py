"""Models on disk: what is saved comes back, and what is not a model is refused with the reason."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from atjem.checkpoint import CheckpointError, load, load_weights, read_spec, save_model, weights_of
from atjem.checkpoint_files import SPEC_FILE, WEIGHTS_FILE
from tests.support.learning import assert_same_state


@pytest.fixture
def model(make_model):
    """Its running statistics are not the initial ones."""
    model = make_model(seed=5)
    model.train()(torch.rand(8, 1, 8, 8))
    return model


@pytest.fixture
def folder(tmp_path, model):
    save_model(model, tmp_path)
    return tmp_path


def change_spec(folder, **fields):
    spec = json.loads((folder / SPEC_FILE).read_text())
    (folder / SPEC_FILE).write_text(json.dumps({**spec, **fields}))


def change_weights(folder, change):
    weights = load_file(folder / WEIGHTS_FILE)
    change(weights)
    save_file(weights, folder / WEIGHTS_FILE)


def test_round_trip(folder, model, make_images):
    assert sorted(path.name for path in folder.iterdir()) == [SPEC_FILE, WEIGHTS_FILE]
    loaded = load(str(folder))
    assert not loaded.training
    assert loaded.spec == model.spec
    assert_same_state(dict(loaded.state_dict()), dict(model.state_dict()))
    assert torch.equal(loaded(make_images()), model.eval()(make_images()))


def test_channels_last_is_saved_as_what_it_is(tmp_path, make_model, make_images):
    model = make_model().to(memory_format=torch.channels_last)
    assert all(tensor.is_contiguous() for tensor in weights_of(model).values())
    save_model(model, tmp_path)
    torch.testing.assert_close(load(tmp_path)(make_images()), model(make_images()))


@pytest.mark.parametrize("name", [SPEC_FILE, WEIGHTS_FILE])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=re.escape(f"it has no {name}")):
        load(folder)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "",
        "[]",
        "3",
        "{}",
        '{"arch": "wrn-10-1", "mean": [0.5], "std": [0.2]}',
        '{"mean": [0.5], "std": [0.2], "size": 3}',
        '{"arch": "wrn-10-1", "num_classes": 4, "channels": 1, "image_size": 8, "mean": 0.5, "std": [0.2]}',
    ],
    ids=["broken", "empty", "list", "number", "no-fields", "few-fields", "other-fields", "scalar-mean"],
)
def test_bad_json_is_named(folder, text):
    (folder / SPEC_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=f"{SPEC_FILE} does not describe a model"):
        read_spec(folder)


@pytest.mark.parametrize(
    ("fields", "said"), [({"arch": "vgg-16"}, "vgg-16"), ({"num_classes": 10}, "has shape")], ids=str
)
def test_another_networks_description_is_refused(folder, fields, said):
    change_spec(folder, **fields)
    with pytest.raises(CheckpointError, match=said):
        load(folder)


@pytest.mark.parametrize(
    "content", [b"", b"not safetensors", b"\xff" * 64, None], ids=["empty", "text", "bytes", "truncated"]
)
def test_other_format_is_refused(folder, content):
    file = folder / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    with pytest.raises(CheckpointError, match=f"{WEIGHTS_FILE} is not a safetensors file"):
        load(folder)


def test_wrong_keys_are_named(folder):
    change_weights(folder, lambda weights: weights.update({"module.bias": weights.pop("backbone.fc.bias")}))
    with pytest.raises(ValueError, match=re.escape("missing ['backbone.fc.bias']")) as caught:
        load(folder)
    assert "unexpected ['module.bias']" in str(caught.value)


def test_wrong_shape_is_named_and_leaves_the_model_alone(folder, make_model):
    change_weights(folder, lambda weights: weights.update({"backbone.fc.bias": torch.zeros(7)}))
    model = make_model(seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=re.escape("backbone.fc.bias has shape (7,), the network (4,)")):
        load_weights(model, folder / WEIGHTS_FILE)
    assert_same_state(dict(model.state_dict()), before)
