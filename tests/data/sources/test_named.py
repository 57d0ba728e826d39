"""Collections by name: what they hold, where they lie, and what is said when they are not there."""

import hashlib
import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from data.build import build
from data.part import Job
from data.sources.base import Source, SourceError
from data.sources.named import NAMED, digits_source, open_source, photograph_classes

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


def rows_of(num: int, seed: int) -> np.ndarray:
    """CIFAR's own layout: a row of 3,072 bytes an image, all of red, then green, then blue."""
    return np.random.default_rng(seed).integers(0, 256, (num, 3072), dtype=np.uint8)


def write_cifar(root: Path, name: str) -> dict[str, tuple[np.ndarray, list[int]]]:
    """Small pickles in the official layout. Returns rows and labels of each split."""
    folder = root / CIFAR_FOLDERS[name]
    folder.mkdir(parents=True)
    if name == "cifar10":
        batches = {
            f"data_batch_{n}": (rows_of(4, n), [(4 * n + i) % 10 for i in range(4)]) for n in range(1, 6)
        }
        batches["test_batch"] = (rows_of(10, 9), list(range(10))[::-1])
        for file, (data, labels) in batches.items():
            _pickle(folder / file, {"data": data, "labels": labels, "filenames": ["a.png"] * len(data)})
        _pickle(folder / "batches.meta", {"label_names": CIFAR10_CLASSES, "num_vis": 3072})
        train = [batches[f"data_batch_{n}"] for n in range(1, 6)]
        rows = np.concatenate([data for data, _ in train])
        return {
            "train": (rows, [label for _, labels in train for label in labels]),
            "test": batches["test_batch"],
        }
    batches = {
        "train": (rows_of(200, 1), [7 * i % 100 for i in range(200)]),
        "test": (rows_of(5, 2), [99, 0, 3, 3, 1]),
    }
    for file, (data, labels) in batches.items():
        _pickle(folder / file, {"data": data, "fine_labels": labels, "coarse_labels": [0] * len(data)})
    names = {"fine_label_names": [f"thing{n:02d}" for n in range(100)], "coarse_label_names": ["things"]}
    _pickle(folder / "meta", names)
    return batches


def _pickle(path: Path, content: dict[str, object]) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def publish(monkeypatch, root: Path, name: str) -> None:
    """Makes the files in `root` the published ones, by their MD5 sums."""
    kind = CIFAR10 if name == "cifar10" else CIFAR100
    for listed in ("train_list", "test_list"):
        files = [file for file, _ in getattr(kind, listed)]
        monkeypatch.setattr(kind, listed, [[file, md5(root / kind.base_folder / file)] for file in files])
    meta = {**kind.meta, "md5": md5(root / kind.base_folder / kind.meta["filename"])}
    monkeypatch.setattr(kind, "meta", meta)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def message(name: str, root: Path) -> str:
    """What is said when the collection's items are asked for."""
    with pytest.raises(SourceError) as caught:
        _ = open_source(name, str(root)).items
    return str(caught.value)


@pytest.fixture(params=CIFAR_FOLDERS)
def cifar(request, tmp_path, monkeypatch):
    """(name, root, what was written) of a small published CIFAR."""
    written = write_cifar(tmp_path, request.param)
    publish(monkeypatch, tmp_path, request.param)
    return request.param, tmp_path, written


def test_cifar_gives_every_image_with_its_label_and_split(cifar):
    name, root, written = cifar
    source = open_source(name, str(root))
    assert len({item.name for item in source.items}) == len(source.items)
    for split, (rows, labels) in written.items():
        items = [item for item in source.items if item.split == split]
        assert [source.classes.index(item.label) for item in items] == labels
        pixels = [np.asarray(item.open()).transpose(2, 0, 1).ravel() for item in items]
        assert np.array_equal(np.stack(pixels), rows)
        assert [item.name for item in items] == [f"{split}/{index:05d}" for index in range(len(items))]


def test_cifars_labels_keep_their_published_numbers(cifar):
    name, root, _ = cifar
    expected = CIFAR10_CLASSES if name == "cifar10" else [f"thing{n:02d}" for n in range(100)]
    assert open_source(name, str(root)).classes == expected
    assert len(expected) == NAMED[name].num_classes


def test_cifar_becomes_shards_by_its_own_split(cifar, tmp_path):
    name, root, written = cifar
    (tmp_path / "out").mkdir()
    dataset = build(open_source(name, str(root)), tmp_path / "out", Job(3, 32, 0, 0.5, 0.0))
    assert dataset.counts == {split: len(rows) for split, (rows, _) in written.items()}
    train = written["train"][0].reshape(-1, 3, 1024) / 255
    assert dataset.mean == pytest.approx(train.mean(axis=(0, 2)), abs=1e-6)
    assert dataset.std == pytest.approx(train.std(axis=(0, 2)), abs=1e-6)


def test_cifars_identity_is_known_without_reading_it(cifar):
    name, root, _ = cifar
    before = open_source(name, str(root)).identity
    assert open_source(name, str(root)).identity == before
    for path in (root / CIFAR_FOLDERS[name]).iterdir():
        path.write_bytes(b"altered")
    assert open_source(name, str(root)).identity != before


def test_missing_cifar_is_told_where_to_get(tmp_path):
    text = message("cifar10", tmp_path / "no where")
    for part in (
        str(tmp_path / "no where" / "cifar-10-batches-py"),
        "does not exist; run python -m data.get cifar10 --root ",
        "data.root",
    ):
        assert part in text
    assert "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz" in message("cifar100", tmp_path)


def test_packed_cifar_is_told_how_to_unpack(tmp_path):
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(b"")
    text = message("cifar100", tmp_path)
    assert f"is still packed; unpack it: tar -xzf cifar-100-python.tar.gz -C {tmp_path}" in text


@pytest.mark.parametrize("damage", ["altered", "missing", "meta altered", "meta missing", "empty"])
def test_altered_cifar_is_refused(cifar, damage):
    name, root, _ = cifar
    folder = root / CIFAR_FOLDERS[name]
    meta = "batches.meta" if name == "cifar10" else "meta"
    path = folder / (
        meta if damage.startswith("meta") else {"cifar10": "data_batch_3", "cifar100": "train"}[name]
    )
    if damage == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif damage.endswith("missing"):
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-9] ^= 1
        path.write_bytes(content)
    text = message(name, root)
    assert text.startswith(f"{name} in {root} differs from https://www.cs.toronto.edu/~kriz/")
    assert text.endswith("unpack it again")


def test_imagenet_is_a_folder_with_train_and_val(tmp_path, write_images):
    names = [f"{split}/n0{n}/{i}.png" for split in ("train", "val") for n in (2, 1, 3) for i in range(2)]
    write_images(tmp_path / "imagenet", *names)
    source = open_source("imagenet", str(tmp_path))
    assert source.classes == ["n01", "n02", "n03"]
    assert Counter(item.split for item in source.items) == {"train": 6, "test": 6}
    assert sorted(item.name for item in source.items) == sorted(names)


@pytest.mark.parametrize("split", ["val", "test"])
def test_imagenets_unsorted_images_are_refused(tmp_path, write_images, split):
    """As the official archives of val and test are: their labels would be missing, not wrong."""
    write_images(
        tmp_path / "imagenet", "train/n01/1.png", "train/n02/1.png", f"{split}/1.png", f"{split}/2.png"
    )
    text = message("imagenet", tmp_path)
    assert f"2 images lie outside a class folder ({split}/1.png, say)" in text


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["1.png", "2.png"], {"1.png": None, "2.png": None}),
        (["train/1.png", "test/1.png"], {"train/1.png": "train", "test/1.png": "test"}),
    ],
    ids=["alone", "train and test"],
)
def test_openimages_has_no_labels(tmp_path, write_images, names, expected):
    write_images(tmp_path / "openimages", *names)
    source = open_source("openimages", str(tmp_path))
    assert {item.name: item.split for item in source.items} == expected
    assert source.classes == []
    assert NAMED["openimages"].num_classes == 0


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("imagenet", ["https://image-net.org", "train/ and val/", "data.root"]),
        ("openimages", ["https://storage.googleapis.com/openimages/web", "data.root", "another folder"]),
    ],
)
def test_missing_folders_are_told_how_to_get(tmp_path, name, parts):
    text = message(name, tmp_path)
    assert text.startswith(f"{tmp_path / name} does not exist; ")
    assert all(part in text for part in parts)
    (tmp_path / name).mkdir()
    assert "holds no image file" in message(name, tmp_path)


def photographs(num_classes: int) -> Source:
    return open_source(f"photographs-{num_classes}", ".")


@pytest.mark.parametrize("num_classes", [1, 2, 7, 10, 100, 1000])
def test_photographs_are_120_images_in_that_many_classes(num_classes):
    source = photographs(num_classes)
    assert len(source.items) == len({item.name for item in source.items}) == 120
    assert Counter(item.split for item in source.items) == {"train": 100, "test": 20}
    assert source.classes == [f"{label:04d}" for label in range(num_classes)]
    used = Counter(item.label for item in source.items)
    assert len(used) == min(num_classes, 120)
    assert max(used.values()) - min(used.values()) <= 1


def test_photographs_are_square_crops_all_different():
    images = [item.open() for item in photographs(10).items]
    assert {(image.size, image.mode) for image in images} == {((213, 213), "RGB")}
    assert len({image.tobytes() for image in images}) == 120


def test_photographs_identity_is_stable_and_names_the_classes():
    assert photographs(10).identity == photographs(10).identity != photographs(11).identity


@pytest.mark.parametrize(
    "name", ["photographs", "photographs-", "photographs-0", "photographs-²", "photographs-1.5"]
)
def test_photographs_without_a_number_of_classes_are_unknown(tmp_path, name):
    assert photograph_classes(name) == 0
    assert "photographs-K" in message(name, tmp_path)


def test_images_of_named_collections_open_more_than_once():
    for source in (digits_source(), photographs(3)):
        first, second = source.items[5].open(), source.items[5].open()
        assert first is not second
        assert isinstance(first, Image.Image)
        assert first.tobytes() == second.tobytes()


def test_digits():
    source = digits_source()
    assert len(source.items) == len({item.name for item in source.items}) == 1797
    assert source.classes == [str(digit) for digit in range(10)]
    pixels = np.stack([np.asarray(item.open()) for item in source.items])
    assert (pixels.shape, pixels.dtype) == ((1797, 8, 8), np.uint8)
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert len(np.unique(pixels)) == 17
    assert {item.split for item in source.items} == {None}


def test_digits_labels_belong_to_their_images():
    items = digits_source().items
    pixels = np.stack([np.asarray(item.open(), dtype=np.float64).ravel() for item in items])
    labels = np.array([int(item.label) for item in items])
    means = np.stack([pixels[labels == digit].mean(axis=0) for digit in range(10)])
    nearest = np.square(pixels[:, None] - means).sum(axis=2).argmin(axis=1)
    assert (nearest == labels).mean() > 0.85


def test_digits_identity_is_stable():
    assert digits_source().identity == digits_source().identity


def test_open_source_by_name(tmp_path):
    assert open_source("digits", str(tmp_path)).name == "digits"


def test_open_source_by_path_below_root_or_absolute(tmp_path, write_images):
    folder = write_images(tmp_path / "my pets", "cat/1.png")
    relative, absolute = open_source("my pets", str(tmp_path)), open_source(str(folder), "/elsewhere")
    assert relative.identity == absolute.identity
    assert [item.name for item in relative.items] == ["cat/1.png"]


def test_open_source_expands_the_home_folder(tmp_path, write_images, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_images(tmp_path / "pets", "cat/1.png")
    assert len(open_source("~/pets", ".").items) == 1
    assert len(open_source("pets", "~").items) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", r"'digit' is neither a folder in .* nor one of .*digits"),
        ("no/where", "no/where does not exist"),
    ],
    ids=["name", "path"],
)
def test_open_source_refuses_what_is_neither(tmp_path, name, message):
    with pytest.raises(SourceError, match=message):
        open_source(name, str(tmp_path))
