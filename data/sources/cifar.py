"""CIFAR-10 and CIFAR-100 in their official python version (Krizhevsky 2009), read through torchvision.

32x32 RGB, 50,000 + 10,000 images, https://www.cs.toronto.edu/~kriz/cifar.html: no licence is stated, the
author asks to be cited. torchvision verifies the published MD5 sums.
"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from data.sources.base import Item, Source, SourceError, listed, listing_digest

_URL = "https://www.cs.toronto.edu/~kriz/"
CIFAR = {  # by name: the folder, and the archive it comes in
    "cifar10": ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    "cifar100": ("cifar-100-python", "cifar-100-python.tar.gz"),
}


def cifar_source(name: str, root: Path) -> Source:
    """CIFAR's official python version, unpacked in `root` (Krizhevsky 2009): 32x32, 50,000 + 10,000 images.

    Opened through torchvision, which verifies the published MD5 sums. Raises SourceError when it is missing
    or differs from the published files.
    """
    folder, archive = CIFAR[name]
    url = _URL + archive
    if not (root / folder).is_dir():
        place = root.resolve()
        if (root / archive).is_file():
            raise SourceError(f"{place / archive} is still packed; unpack it: tar -xzf {archive} -C {place}")
        raise SourceError(
            f"{place / folder} does not exist; run python -m data.get {name} --root {root}, or download "
            f"{url} and unpack it there, or set data.root to its place, or give a folder of class folders"
        )
    files = sorted((root / folder).iterdir())
    identity = listing_digest(listed(path.name, path) for path in files)
    return Source(name, identity, partial(_cifar_items, name, root, url))


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


def cifar_archive_source(name: str, archive: Path) -> Source:
    """The same from the archive: unpacked to a temporary folder for as long as it takes to read it."""
    identity = listing_digest([listed(archive.name, archive)])
    return Source(str(archive), identity, partial(_archived_items, name, archive))


def _archived_items(name: str, archive: Path) -> tuple[Item, ...]:
    from torchvision.datasets import CIFAR10, CIFAR100
    from torchvision.datasets.utils import check_md5, extract_archive

    url = _URL + CIFAR[name][1]
    if not check_md5(archive, (CIFAR10 if name == "cifar10" else CIFAR100).tgz_md5):
        raise SourceError(f"{archive} differs from {url} (its MD5); download it again")
    with TemporaryDirectory() as scratch:
        extract_archive(str(archive), scratch)
        return _cifar_items(name, Path(scratch), url)
