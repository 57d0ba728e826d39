"""MNIST's file format: places, class names, checksums, and what is said about damaged files."""

import gzip
import pickle

import numpy as np
import pytest
from torchvision.datasets import FashionMNIST

from data.sources.base import SourceError
from data.sources.idx import idx_source
from data.sources.named import NAMED, open_source
from tests.support.data_files import assert_known_by_size_and_time, message_of
from tests.support.published_files import IDX, idx_arrays, idx_bytes, publish_idx, write_idx

DIGITS = [str(digit) for digit in range(10)]
FILES = [f"{stem}-{kind}-ubyte" for stem in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("below", ["", "raw"])
def test_images_come_with_their_labels_and_splits(tmp_path, packed, below):
    write_idx(tmp_path / "my digits" / below, packed)
    source = open_source("my digits", str(tmp_path))
    assert source.classes == DIGITS
    for split, stem in (("train", "train"), ("test", "t10k")):
        pixels, labels = idx_arrays(stem)
        items = [item for item in source.items if item.split == split]
        assert [item.name for item in items] == [f"{split}/{n:05d}" for n in range(len(pixels))]
        assert [item.label for item in items] == [str(label) for label in labels]
        assert np.array_equal(np.stack([np.asarray(item.open()) for item in items]), pixels)
    item = pickle.dumps(source.items[14])
    assert len(item) < 600
    assert np.array_equal(np.asarray(pickle.loads(item).open()), idx_arrays("t10k")[0][2])


def test_plain_files_are_taken_before_packed_ones(tmp_path):
    write_idx(tmp_path, packed=False)
    for name in FILES:
        (tmp_path / f"{name}.gz").write_bytes(b"damaged")
    assert len(idx_source(tmp_path).items) == 17


def test_train_alone_is_no_split_and_more_than_ten_classes_sort_as_numbers(tmp_path):
    write_idx(tmp_path, packed=False, stems=("train",))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(12, dtype=np.uint8)))
    source = idx_source(tmp_path)
    assert source.splits == [None] * 12
    assert source.classes == [f"{n:02d}" for n in range(12)]


@pytest.mark.parametrize("folder", ["Fashion-MNIST", "FashionMNIST/raw"])
def test_fashion_mnist_is_known_by_its_folder(tmp_path, folder):
    place = write_idx(tmp_path / folder, packed=False)
    assert idx_source(place).labels[:10] == FashionMNIST.classes
    (place / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.full(5, 10, dtype=np.uint8)))
    assert f"{place} has a label 10; 10 classes are known: T-shirt/top" in message_of(idx_source, place)


@pytest.mark.parametrize("name", IDX)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("own_name", [False, True], ids=["torchvision's folder", "own folder"])
def test_named_collections(tmp_path, monkeypatch, name, packed, own_name):
    folder = write_idx(tmp_path / (name if own_name else f"{IDX[name].__name__}/raw"), packed)
    publish_idx(monkeypatch, name, folder)
    source = open_source(name, str(tmp_path))
    assert source.classes == sorted(DIGITS if name == "mnist" else FashionMNIST.classes)
    assert len(source.classes) == NAMED[name].num_classes
    assert len(source.items) == 17


@pytest.mark.parametrize("name", IDX)
def test_altered_named_collection_is_refused_when_loaded(tmp_path, monkeypatch, name):
    folder = write_idx(tmp_path / name, packed=True)
    publish_idx(monkeypatch, name, folder)
    path = folder / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.zeros(5, dtype=np.uint8))))
    source = open_source(name, str(tmp_path))
    with pytest.raises(SourceError, match=r"t10k-labels-idx1-ubyte\.gz differs from http.*download it again"):
        _ = source.items
    assert len(open_source(f"./{name}", str(tmp_path)).items) == 17  # a path promises no publication


@pytest.mark.parametrize("name", IDX)
@pytest.mark.parametrize("there", [0, 1, 3])
def test_missing_named_collection_is_told_where_to_get(tmp_path, name, there):
    (tmp_path / name).mkdir()
    for file in FILES[:there]:
        (tmp_path / name / file).write_bytes(b"")
    with pytest.raises(SourceError) as caught:
        open_source(name, str(tmp_path))
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / name} lacks train-images-idx3-ubyte.gz")
    assert all(part in text for part in ("http", "data.root", f"./{name}"))


def test_the_published_sums_are_of_the_four_files():
    for kind in IDX.values():
        assert [name for name, _ in kind.resources] == [f"{file}.gz" for file in FILES]


DAMAGE = {
    "empty": (b"", "begins with nothing"),
    "magic": (b"\0\0\x08\x02" + bytes(30), "begins with 00000802, not 00000803"),
    "floats": (b"\0\0\x0d\x03" + bytes(30), "begins with 00000d03"),
    "no shape": (b"\0\0\x08\x03\0\0", "says it holds"),
    "no images": (idx_bytes(np.zeros((0, 6, 4), np.uint8)), "says it holds (0, 6, 4)"),
    "cut short": (
        idx_bytes(idx_arrays("train")[0])[:-1],
        "says it holds (12, 6, 4), so 288 bytes and no other number",
    ),
    "too long": (idx_bytes(idx_arrays("train")[0]) + b"\0", "so 288 bytes and no other number"),
    "absurd": (b"\0\0\x08\x03" + b"\xff" * 12 + b"1", "bytes and no other number"),
    "too few": (idx_bytes(idx_arrays("train")[0][:11]), "has 11 images and"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize(("content", "part"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_file_is_named(tmp_path, packed, content, part):
    write_idx(tmp_path, packed)
    path = tmp_path / f"train-images-idx3-ubyte{'.gz' * packed}"
    path.write_bytes(gzip.compress(content) if packed else content)
    text = message_of(idx_source, tmp_path)
    assert text.startswith(str(path))
    assert part in text


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99, None])
def test_a_damaged_packed_file_is_named(tmp_path, kept):
    path = write_idx(tmp_path, packed=True) / "train-images-idx3-ubyte.gz"
    content = idx_bytes(idx_arrays("train")[0]) if kept is None else path.read_bytes()
    path.write_bytes(content if kept is None else content[: int(kept * len(content))])
    assert message_of(idx_source, tmp_path).startswith(f"{path} is truncated or damaged")


def test_folders_that_lack_files_are_refused(tmp_path):
    with pytest.raises(SourceError, match="holds no idx files; give a folder with train-images-idx3-ubyte"):
        idx_source(tmp_path)
    (write_idx(tmp_path, packed=False) / "t10k-labels-idx1-ubyte").unlink()
    assert message_of(idx_source, tmp_path) == f"{tmp_path} lacks t10k-labels-idx1-ubyte (or .gz)"


def test_identity_is_known_without_reading(tmp_path):
    write_idx(tmp_path, packed=False)
    assert_known_by_size_and_time(lambda: idx_source(tmp_path), tmp_path / FILES[0])
