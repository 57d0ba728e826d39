"""Models on disk: what is saved comes back, and what is not a model is refused with the reason."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from atjem.checkpoint import CheckpointError, load, load_weights, read_spec, save_model, weights_of
from atjem.checkpoint_files import SPEC_FILE, WEIGHTS_FILE, missing_files


@pytest.fixture
def folder(tmp_path, make_model):
    """A saved model whose running statistics are not the initial ones."""
    model = make_model(seed=5)
    model.train()(torch.rand(8, 1, 8, 8))
    save_model(model, tmp_path)
    return tmp_path


def change_spec(folder, **fields):
    spec = json.loads((folder / SPEC_FILE).read_text())
    (folder / SPEC_FILE).write_text(json.dumps({**spec, **fields}))


def change_weights(folder, change):
    weights = load_file(folder / WEIGHTS_FILE)
    change(weights)
    save_file(weights, folder / WEIGHTS_FILE)


def test_round_trip(tmp_path, make_model, make_images):
    model = make_model(seed=5)
    model.train()(make_images(8))
    save_model(model, tmp_path)
    loaded = load(tmp_path)
    assert loaded.spec == model.spec
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    assert torch.equal(loaded(make_images()), model.eval()(make_images()))


def test_channels_last_is_saved_as_what_it_is(tmp_path, make_model, make_images):
    model = make_model().to(memory_format=torch.channels_last)
    assert all(tensor.is_contiguous() for tensor in weights_of(model).values())
    save_model(model, tmp_path)
    torch.testing.assert_close(load(tmp_path)(make_images()), model(make_images()))


def test_loads_in_eval_mode_from_a_string(folder):
    model = load(str(folder))
    assert not model.training
    assert all(value.device.type == "cpu" for value in model.state_dict().values())


def test_saves_two_files(folder):
    assert sorted(path.name for path in folder.iterdir()) == [SPEC_FILE, WEIGHTS_FILE]
    assert missing_files(folder) == []


@pytest.mark.parametrize("name", [SPEC_FILE, WEIGHTS_FILE])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert missing_files(folder) == [name]
    with pytest.raises(CheckpointError, match=re.escape(f"it has no {name}")):
        load(folder)


def test_missing_folder_lacks_both(tmp_path):
    with pytest.raises(CheckpointError, match=f"it has no {SPEC_FILE} and no {WEIGHTS_FILE}"):
        load(tmp_path / "nowhere")


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


def test_unknown_arch_on_disk_is_a_checkpoint_error(folder):
    change_spec(folder, arch="vgg-16")
    with pytest.raises(CheckpointError, match="vgg-16"):
        load(folder)


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 64], ids=["empty", "text", "bytes"])
def test_other_format_is_refused(folder, content):
    (folder / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{WEIGHTS_FILE} is not a safetensors file"):
        load(folder)


def test_truncated_weights_are_refused(folder):
    file = folder / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        load(folder)


def test_wrong_keys_are_named(folder):
    change_weights(
        folder, lambda weights: weights.update({"module.fc.bias": weights.pop("backbone.fc.bias")})
    )
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert "missing ['backbone.fc.bias']" in str(caught.value)
    assert "unexpected ['module.fc.bias']" in str(caught.value)


def test_wrong_shape_is_named(folder):
    change_weights(folder, lambda weights: weights.update({"backbone.fc.bias": torch.zeros(7)}))
    with pytest.raises(CheckpointError, match=re.escape("backbone.fc.bias has shape (7,), the network (4,)")):
        load(folder)


def test_weights_of_another_number_of_classes_are_refused(folder):
    change_spec(folder, num_classes=10)
    with pytest.raises(CheckpointError, match="has shape"):
        load(folder)


def test_refused_weights_leave_the_model_alone(folder, make_model):
    change_weights(folder, lambda weights: weights.update({"backbone.fc.bias": torch.zeros(7)}))
    model = make_model(seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError):
        load_weights(model, folder / WEIGHTS_FILE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_checkpoint_error_is_a_value_error():
    assert issubclass(CheckpointError, ValueError)
