"""Which of a model's files are there, and what training can start from."""

import pytest

from atjem.checkpoint_files import SPEC_FILE, WEIGHTS_FILE, missing_files, unusable_start


def test_missing_files_of_a_model(tmp_path):
    assert missing_files(tmp_path / "nowhere") == [SPEC_FILE, WEIGHTS_FILE]
    (tmp_path / WEIGHTS_FILE).touch()
    assert missing_files(tmp_path) == [SPEC_FILE]
    assert unusable_start(tmp_path) == f"has no {SPEC_FILE}"
    (tmp_path / SPEC_FILE).touch()
    assert missing_files(tmp_path) == []
    assert unusable_start(tmp_path) == ""


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "imagenet.l2.eps3.ckpt"])
def test_usable_files(tmp_path, name):
    (tmp_path / name).touch()
    assert unusable_start(tmp_path / name) == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere.pt", "no such file or folder"),
        ("weights.safetensors", "is neither a model folder nor a published file"),
        ("x" * 300, "File name too long"),
    ],
    ids=["nowhere", "other-kind", "long-name"],
)
def test_unusable_starts_say_why(tmp_path, name, reason):
    (tmp_path / "weights.safetensors").touch()
    assert unusable_start(tmp_path / name) == reason
