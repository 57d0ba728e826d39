"""CIFAR by path: the published folder, and the archive that it comes in."""

import hashlib
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR100

from data.sources.base import SourceError
from data.sources.named import open_source

ARCHIVE, FOLDER = "cifar-100-python.tar.gz", "cifar-100-python"
NAMES = [f"thing{number:02d}" for number in range(100)]
LABELS = {"train": [7, 3, 99], "test": [0, 5]}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a small published CIFAR-100, unpacked and packed."""
    folder = tmp_path / FOLDER
    folder.mkdir()
    for split, labels in LABELS.items():
        rows = np.random.default_rng(len(labels)).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        (folder / split).write_bytes(pickle.dumps({"data": rows, "fine_labels": labels}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": NAMES}))
    with tarfile.open(tmp_path / ARCHIVE, "w:gz") as tar:
        tar.add(folder, FOLDER)
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5(folder / "train")]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5(folder / "test")]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": md5(folder / "meta")})
    monkeypatch.setattr(CIFAR100, "tgz_md5", md5(tmp_path / ARCHIVE))
    return tmp_path


def test_folder_and_archive_give_what_the_name_gives(place):
    named, folder, archive = (open_source(name, str(place)) for name in ("cifar100", FOLDER, ARCHIVE))
    assert named.labels == [NAMES[label] for labels in LABELS.values() for label in labels]
    for source in (folder, archive):
        assert (source.labels, source.splits) == (named.labels, named.splits)
        for ours, theirs in zip(source.items, named.items, strict=True):
            assert ours.name == theirs.name
            assert ours.open().tobytes() == theirs.open().tobytes()


def test_altered_archive_is_refused_when_loaded(place):
    before = open_source(ARCHIVE, str(place)).identity
    (place / ARCHIVE).write_bytes(b"altered")
    source = open_source(ARCHIVE, str(place))
    assert source.identity != before
    with pytest.raises(
        SourceError, match=r"differs from https://.*cifar-100-python\.tar\.gz .*download it again"
    ):
        _ = source.items
