"""Collections known by name: what they are, where they lie under `data.root`, how to get them."""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from PIL import Image

from data.sources import Item, Source, SourceError, folder_source, listing_digest

PHOTOGRAPHS = "photographs"  # with '-K': labelled in K classes
_CIFAR = {
    "cifar10": ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    "cifar100": ("cifar-100-python", "cifar-100-python.tar.gz"),
}


@dataclass(frozen=True)
class Named:
    """`num_classes` is 0 for collections without labels, which can only be seeds."""

    open: Callable[[Path], Source]
    num_classes: int


def open_source(name_or_path: str, root: str) -> Source:
    """The collection of that name, or the folder of that path; a relative path starts at `root`.

    Raises SourceError when there is neither, with how to get a named one.
    """
    base = Path(root).expanduser()
    if not name_or_path:
        raise SourceError("the name is empty; give a folder of images or one of " + ", ".join(sorted(NAMED)))
    if num_classes := photograph_classes(name_or_path):
        return photographs_source(num_classes)
    if name_or_path in NAMED:
        return NAMED[name_or_path].open(base)
    folder = base / Path(name_or_path).expanduser()
    if not os.path.exists(folder) and os.sep not in name_or_path:
        near = get_close_matches(name_or_path, NAMED, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join((*sorted(NAMED), f"{PHOTOGRAPHS}-K"))
        raise SourceError(
            f"{name_or_path!r} is neither a folder in {base.resolve()} nor one of {known}{hint}"
        )
    return folder_source(folder)


def digits_source(_: Path = Path()) -> Source:
    """scikit-learn's bundled test set of 1,797 handwritten digits (8x8 grey, UCI; no download).

    Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits; values 0-16 are spread to 0-255.
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


def cifar_source(name: str, root: Path) -> Source:
    """CIFAR's official python version, unpacked in `root` (Krizhevsky 2009): 32x32, 50,000 + 10,000 images.

    Opened through torchvision, which verifies the published MD5 sums. Raises SourceError when it is missing
    or differs from the published files.
    """
    folder, archive = _CIFAR[name]
    url = f"https://www.cs.toronto.edu/~kriz/{archive}"
    if not (root / folder).is_dir():
        place = root.resolve()
        if (root / archive).is_file():
            raise SourceError(f"{place / archive} is still packed; unpack it: tar -xzf {archive} -C {place}")
        raise SourceError(
            f"{place / folder} does not exist; download {url} and unpack it there, "
            "set data.root to its place, or give a folder of class folders"
        )
    listed = [(path.name, *_size_and_time(path)) for path in sorted((root / folder).iterdir())]
    return Source(name, listing_digest(listed), partial(_cifar_items, name, root, url))


def _cifar_items(name: str, root: Path, url: str) -> tuple[Item, ...]:
    from torchvision.datasets import CIFAR10, CIFAR100

    items: list[Item] = []
    for split in ("train", "test"):
        try:
            cifar = (CIFAR10 if name == "cifar10" else CIFAR100)(str(root), train=split == "train")
        except RuntimeError as error:  # torchvision's word for a file that is missing or altered
            raise SourceError(f"{name} in {root.resolve()} differs from {url}; unpack it again") from error
        labels = [cifar.classes[target] for target in cifar.targets]
        items += [
            Item(f"{split}/{index:05d}", label, split, partial(Image.fromarray, cifar.data[index]))
            for index, label in enumerate(labels)
        ]
    return tuple(items)


def _size_and_time(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def imagenet_source(root: Path) -> Source:
    """ImageNet-1k in `root`/imagenet: train/ and val/ with a folder a class (Russakovsky et al. 2015)."""
    folder = root / "imagenet"
    source = _own_folder(
        folder,
        "get ImageNet-1k from https://image-net.org (account, non-commercial terms) and put train/ and val/ "
        "there, a folder a class in each, or set data.root",
    )
    if loose := [
        item.name for item, label in zip(source.items, source.labels, strict=True) if label is None
    ]:  # as val/ and test/ are unpacked
        raise SourceError(
            f"{folder.resolve()}: {len(loose)} images lie outside a class folder ({loose[0]}, say); "
            "sort val/ into a folder a class, as train/ is, and take test/ away"
        )
    return source


def openimages_source(root: Path) -> Source:
    """Natural images of other things than the classes, in `root`/openimages, alone or in train/ and test/."""
    return _own_folder(
        root / "openimages",
        "put natural images without your classes there (Open Images, "
        "https://storage.googleapis.com/openimages/web, say), set data.root or give another folder",
    )


def _own_folder(folder: Path, how_to_get: str) -> Source:
    if not folder.is_dir():
        raise SourceError(f"{folder.resolve()} does not exist; {how_to_get}")
    return folder_source(folder)


def photographs_source(num_classes: int) -> Source:
    """120 overlapping crops of the two photographs that ship with scikit-learn, dealt out to classes.

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
    "imagenet": Named(imagenet_source, 1000),
    "openimages": Named(openimages_source, 0),
}
