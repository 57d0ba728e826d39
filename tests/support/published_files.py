"""Small CIFAR and MNIST files. torchvision is patched to accept their checksums."""

import gzip
import hashlib
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR100_CLASSES = [f"thing{number:02d}" for number in range(100)]
CIFAR = {"cifar10": CIFAR10, "cifar100": CIFAR100}
IDX = {"mnist": MNIST, "fashion-mnist": FashionMNIST}
IDX_COUNTS = {"train": 12, "t10k": 5}


def write_cifar(root: Path, name: str) -> dict[str, tuple[np.ndarray, list[int]]]:
    """Small pickles in the official layout. Returns rows and labels of each split."""
    folder = root / CIFAR[name].base_folder
    folder.mkdir(parents=True)
    if name == "cifar10":
        files = {f"data_batch_{n}": _batch(4, n, [(4 * n + i) % 10 for i in range(4)]) for n in range(1, 6)}
        files["test_batch"] = _batch(10, 9, list(range(10))[::-1])
        meta, key = {"label_names": CIFAR10_CLASSES}, "labels"
    else:
        files = {
            "train": _batch(200, 1, [7 * i % 100 for i in range(200)]),
            "test": _batch(5, 2, [99, 0, 3, 3, 1]),
        }
        meta, key = {"fine_label_names": CIFAR100_CLASSES}, "fine_labels"
    for file, (data, labels) in files.items():
        (folder / file).write_bytes(pickle.dumps({"data": data, key: labels}))
    (folder / CIFAR[name].meta["filename"]).write_bytes(pickle.dumps(meta))
    *train, test = files.values()
    return {
        "train": (np.concatenate([data for data, _ in train]), [y for _, labels in train for y in labels]),
        "test": test,
    }


def _batch(num: int, seed: int, labels: list[int]) -> tuple[np.ndarray, list[int]]:
    """CIFAR's own layout: a row of 3,072 bytes an image, all of red, then green, then blue."""
    return np.random.default_rng(seed).integers(0, 256, (num, 3072), dtype=np.uint8), labels


def pack_cifar(root: Path, name: str) -> Path:
    archive = root / CIFAR[name].filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root / CIFAR[name].base_folder, CIFAR[name].base_folder)
    return archive


def publish_cifar(patch: pytest.MonkeyPatch, root: Path, name: str) -> None:
    """Makes the files in `root`, and the archive where it is there, the published ones by their MD5 sums."""
    kind, archive = CIFAR[name], root / CIFAR[name].filename
    for listed in ("train_list", "test_list"):
        files = [file for file, _ in getattr(kind, listed)]
        patch.setattr(kind, listed, [[file, md5(root / kind.base_folder / file)] for file in files])
    patch.setattr(kind, "meta", {**kind.meta, "md5": md5(root / kind.base_folder / kind.meta["filename"])})
    if archive.exists():
        patch.setattr(kind, "tgz_md5", md5(archive))


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def idx_arrays(stem: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 6, 4) and labels that `write_idx` writes."""
    num = IDX_COUNTS[stem]
    pixels = np.random.default_rng(len(stem)).integers(0, 256, (num, 6, 4), dtype=np.uint8)
    return pixels, np.arange(num, dtype=np.uint8) % 10


def idx_bytes(array: np.ndarray) -> bytes:
    shape = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes((0, 0, 8, array.ndim)) + shape + array.tobytes()


def write_idx(folder: Path, packed: bool, stems: tuple[str, ...] = ("train", "t10k")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        for kind, array in zip(("images-idx3", "labels-idx1"), idx_arrays(stem), strict=True):
            path = folder / f"{stem}-{kind}-ubyte{'.gz' * packed}"
            path.write_bytes(gzip.compress(idx_bytes(array)) if packed else idx_bytes(array))
    return folder


def publish_idx(patch: pytest.MonkeyPatch, name: str, folder: Path) -> None:
    """Makes the packed files in `folder` the published ones, by their MD5 sums."""
    patch.setattr(IDX[name], "resources", [(path.name, md5(path)) for path in folder.glob("*.gz")])
