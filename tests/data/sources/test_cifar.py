"""CIFAR by name, by path and as the archive it comes in: every image, its checksums, pickles in its place."""

import shutil

import numpy as np
import pytest

from data.build import build
from data.sources.named import NAMED, open_source
from tests.support.data_files import flip_bit, job, message_of
from tests.support.hostile_files import assert_refused
from tests.support.published_files import (
    CIFAR,
    CIFAR10_CLASSES,
    CIFAR100_CLASSES,
    pack_cifar,
    publish_cifar,
    write_cifar,
)

REFUSED = {
    "a pickled batch": "differs from https://www.cs.toronto.edu",
    "an archive of pickled batches": "differs from https://www.cs.toronto.edu",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_words(hostile_sources, name):
    assert_refused(hostile_sources[name], REFUSED[name])


@pytest.fixture(params=CIFAR)
def cifar(request, tmp_path, monkeypatch):
    """(name, root, what was written) of a small published CIFAR, unpacked and packed."""
    written = write_cifar(tmp_path, request.param)
    pack_cifar(tmp_path, request.param)
    publish_cifar(monkeypatch, tmp_path, request.param)
    return request.param, tmp_path, written


def test_every_image_comes_with_its_label_and_split(cifar):
    name, root, written = cifar
    classes = {"cifar10": CIFAR10_CLASSES, "cifar100": CIFAR100_CLASSES}[name]
    assert len(classes) == NAMED[name].num_classes
    for given in (name, CIFAR[name].base_folder, CIFAR[name].filename):
        source = open_source(given, str(root))
        assert source.classes == classes
        for split, (pixels, labels) in written.items():
            items = [item for item in source.items if item.split == split]
            assert [source.classes.index(item.label) for item in items] == labels
            rows = [np.asarray(item.open()).transpose(2, 0, 1).ravel() for item in items]
            assert np.array_equal(np.stack(rows), pixels)
            assert [item.name for item in items] == [f"{split}/{index:05d}" for index in range(len(items))]


def test_cifar_becomes_shards_by_its_own_split(cifar, tmp_path):
    name, root, written = cifar
    dataset = build(open_source(name, str(root)), tmp_path / "out", job(image_size=32))
    assert dataset.counts == {split: len(rows) for split, (rows, _) in written.items()}
    train = written["train"][0].reshape(-1, 3, 1024) / 255
    assert dataset.mean == pytest.approx(train.mean(axis=(0, 2)), abs=1e-6)
    assert dataset.std == pytest.approx(train.std(axis=(0, 2)), abs=1e-6)


def test_identity_is_known_without_reading(cifar):
    name, root, _ = cifar
    for given in (name, CIFAR[name].filename):
        before = open_source(given, str(root)).identity
        assert open_source(given, str(root)).identity == before
        for path in (*(root / CIFAR[name].base_folder).iterdir(), root / CIFAR[name].filename):
            path.write_bytes(b"altered")
        assert open_source(given, str(root)).identity != before


def test_missing_and_packed_collections_are_told_how_to_get(tmp_path):
    text = message_of(open_source, "cifar10", str(tmp_path / "no where"))
    place = str(tmp_path / "no where" / "cifar-10-batches-py")
    for part in (place, "does not exist; run python -m data.get cifar10 --root ", "data.root"):
        assert part in text
    assert "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz" in message_of(
        open_source, "cifar100", str(tmp_path)
    )
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(b"")
    told = f"is still packed; unpack it: tar -xzf cifar-100-python.tar.gz -C {tmp_path}"
    assert told in message_of(open_source, "cifar100", str(tmp_path))


@pytest.mark.parametrize("damage", ["altered", "missing", "meta altered", "meta missing", "empty"])
def test_altered_cifar_is_refused(cifar, damage):
    name, root, _ = cifar
    folder = root / CIFAR[name].base_folder
    batch = {"cifar10": "data_batch_3", "cifar100": "train"}[name]
    path = folder / (CIFAR[name].meta["filename"] if damage.startswith("meta") else batch)
    if damage == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif damage.endswith("missing"):
        path.unlink()
    else:
        flip_bit(path, -9)
    text = message_of(open_source, name, str(root))
    assert text.startswith(f"{name} in {root} differs from https://www.cs.toronto.edu/~kriz/")
    assert text.endswith("unpack it again")


def test_altered_archive_is_refused_when_loaded(cifar):
    name, root, _ = cifar
    archive = CIFAR[name].filename
    (root / archive).write_bytes(b"altered")
    text = message_of(open_source, archive, str(root))
    assert "differs from https://" in text
    assert text.endswith("download it again")
