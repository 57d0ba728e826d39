"""Collections known by name: what they are, where they lie under `data.root`, how to get them."""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from PIL import Image

from data.folders import is_address
from data.sources.archives import archive_source
from data.sources.base import Item, Source, SourceError, folder_source, is_image, is_shards
from data.sources.cifar import CIFAR, cifar_archive_source, cifar_source
from data.sources.idx import has_idx, idx_source, mnist_source
from data.sources.imagenet import imagenet_folder, imagenet_source, is_imagenet
from data.sources.tables import table_files, table_source

PHOTOGRAPHS = "photographs"  # with '-K': labelled in K classes


@dataclass(frozen=True)
class Named:
    """`num_classes` is 0 for collections without labels, which can only be seeds."""

    open: Callable[[Path], Source]
    num_classes: int


def open_source(name_or_path: str, root: str) -> Source:
    """The collection of that name, or what lies at that path; a relative path starts at `root`.

    Raises SourceError when there is neither, with how to get a named one.
    """
    return replace(_open(name_or_path, root), opened_by=partial(open_source, name_or_path, root))


def _open(name_or_path: str, root: str) -> Source:
    base = Path(root).expanduser()
    if not name_or_path:
        raise SourceError("the name is empty; give a folder of images or one of " + ", ".join(sorted(NAMED)))
    if num_classes := photograph_classes(name_or_path):
        return photographs_source(num_classes)
    if name_or_path in NAMED:
        return NAMED[name_or_path].open(base)
    if is_address(name_or_path):
        from data.sources.remote import remote_source

        return remote_source(name_or_path)
    path = base / Path(name_or_path).expanduser()
    if not os.path.exists(path) and os.sep not in name_or_path:
        near = get_close_matches(name_or_path, NAMED, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join((*sorted(NAMED), f"{PHOTOGRAPHS}-K"))
        raise SourceError(
            f"{name_or_path!r} is neither a folder in {base.resolve()} nor a file there "
            f"nor one of {known}{hint}"
        )
    return path_source(path)


def path_source(path: Path) -> Source:
    """The collection at a path, recognised by its name and by what it holds; else it is a folder of images.

    Raises SourceError when it is none.
    """
    for name, (folder, archive) in CIFAR.items():
        if path.name == folder and path.is_dir():
            return cifar_source(name, path.parent)
        if path.name == archive and path.is_file():
            return cifar_archive_source(name, path)
    if path.is_file():
        return table_source(path) if path.suffix.lower() == ".parquet" else archive_source(path)
    if is_imagenet(path):
        return imagenet_folder(path)
    if _holds_shards(path):
        from data.sources.inplace import shards_source  # brings webdataset, which takes seconds

        return shards_source(path)
    if table_files(path):
        return table_source(path)
    return idx_source(path) if has_idx(path) else folder_source(path)


def _holds_shards(path: Path) -> bool:
    """Tars beside each other and no image: WebDataset. Raises SourceError where there are images below."""
    if not path.is_dir() or not is_shards([file.name for file in path.iterdir()]):
        return False
    image = next((file for file in path.rglob("*") if is_image(file.name)), None)
    if image is not None:
        raise SourceError(
            f"{path} holds .tar files and images ({image.relative_to(path)}): give one kind alone"
        )
    return True


def digits_source(_: Path = Path()) -> Source:
    """scikit-learn's bundled test set of 1,797 handwritten digits (8x8 grey; no download).

    Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, UCI repository (CC BY 4.0),
    https://archive.ics.uci.edu/dataset/80; values 0-16 are spread to 0-255.
    """
    import numpy as np
    import sklearn
    from sklearn.datasets import load_digits

    def load() -> tuple[Item, ...]:
        digits = load_digits()
        pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
        return tuple(
            Item(f"{label}/{index:04d}", str(label), None, partial(Image.fromarray, pixels[index]))
            for index, label in enumerate(digits.target)
        )

    return Source("digits", f"scikit-learn-{sklearn.__version__}", load)


def openimages_source(root: Path) -> Source:
    """Natural images of other things than the classes, in `root`/openimages, alone or in train/ and test/.

    From Open Images, say (Kuznetsova et al. 2020): listed as CC BY 2.0, annotations CC BY 4.0. No checksum of
    a part of it is published.
    """
    folder = root / "openimages"
    if not folder.is_dir():
        raise SourceError(
            f"{folder.resolve()} does not exist; put natural images without your classes there (Open Images, "
            "https://storage.googleapis.com/openimages/web, say, by python -m data.get openimages "
            f"--root {root} --list FILE), set data.root or give another folder"
        )
    return folder_source(folder)


def photographs_source(num_classes: int) -> Source:
    """120 overlapping crops of the two photographs of scikit-learn (CC BY 2.0), dealt out to classes.

    No class means anything: they only let a pipeline be tried at any image size without a download.
    """
    import sklearn

    def load() -> tuple[Item, ...]:
        from sklearn.datasets import load_sample_images

        photographs = load_sample_images().images
        side = min(min(photograph.shape[:2]) for photograph in photographs) // 2
        crops = [
            photograph[row : row + side, column : column + side]
            for photograph in photographs
            for row in range(0, photograph.shape[0] - side + 1, (photograph.shape[0] - side) // 5)
            for column in range(0, photograph.shape[1] - side + 1, (photograph.shape[1] - side) // 9)
        ]
        return tuple(
            Item(
                f"{index:03d}",
                f"{index % num_classes:04d}",
                "test" if index // 10 % 5 == 4 else "train",
                partial(Image.fromarray, crop),
            )
            for index, crop in enumerate(crops)
        )

    identity = hashlib.sha256(f"scikit-learn-{sklearn.__version__}/{num_classes}".encode()).hexdigest()
    classes = tuple(f"{label:04d}" for label in range(num_classes))
    return Source(f"{PHOTOGRAPHS}-{num_classes}", identity, load, classes)


def photograph_classes(name: str) -> int:
    """K of 'photographs-K'; 0 for any other name."""
    kind, _, number = name.partition("-")
    return int(number) if kind == PHOTOGRAPHS and re.fullmatch(r"[1-9][0-9]{0,4}", number) else 0


NAMED: dict[str, Named] = {
    "digits": Named(digits_source, 10),
    "cifar10": Named(partial(cifar_source, "cifar10"), 10),
    "cifar100": Named(partial(cifar_source, "cifar100"), 100),
    "mnist": Named(partial(mnist_source, "mnist"), 10),
    "fashion-mnist": Named(partial(mnist_source, "fashion-mnist"), 10),
    "imagenet": Named(imagenet_source, 1000),
    "openimages": Named(openimages_source, 0),
}
