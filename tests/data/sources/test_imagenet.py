"""ImageNet-1k as published: archives within archives, numbered validation images, the devkit's labels."""

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from data.sources.base import Item, SourceError
from data.sources.imagenet import imagenet_folder
from data.sources.named import open_source

WNIDS = ["n03", "n01", "n02"]  # of ids 1, 2, 3: not in their order
TRUTH = [2, 3, 1, 1, 2]
VAL_LABELS = [WNIDS[number - 1] for number in TRUTH]
VAL_NAMES = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 6)]
TRAIN_NAMES = [f"{wnid}/{wnid}_{number}.JPEG" for wnid in sorted(WNIDS) for number in range(2)]


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "jpeg")
    return buffer.getvalue()


def seed_of(name: str) -> int:
    """Each image has its own seed, which follows from its name alone."""
    return (
        sum(map(ord, Path(name).name))
        if "val" in name
        else 1000 + TRAIN_NAMES.index("/".join(Path(name).parts[-2:]))
    )


def expected(name: str) -> bytes:
    return Image.open(io.BytesIO(jpeg(seed_of(name)))).tobytes()


def pixels_of(item: Item) -> bytes:
    return item.open().tobytes()


def tar_of(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def train_tree(folder: Path) -> None:
    for name in TRAIN_NAMES:
        path = folder / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(seed_of(name)))


def train_tar(folder: Path) -> None:
    inner = {
        f"{wnid}.tar": tar_of({Path(n).name: jpeg(seed_of(n)) for n in TRAIN_NAMES if n.startswith(wnid)})
        for wnid in sorted(WNIDS, reverse=True)
    }
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar_of(inner))


def val_tree(folder: Path) -> None:
    for name, wnid in zip(VAL_NAMES, VAL_LABELS, strict=True):
        (folder / "val" / wnid).mkdir(parents=True, exist_ok=True)
        (folder / "val" / wnid / name).write_bytes(jpeg(seed_of(name)))


def val_flat(folder: Path) -> None:
    (folder / "val").mkdir()
    for name in VAL_NAMES:
        (folder / "val" / name).write_bytes(jpeg(seed_of(name)))


def val_tar(folder: Path) -> None:
    content = tar_of({name: jpeg(seed_of(name)) for name in reversed(VAL_NAMES)})
    (folder / "ILSVRC2012_img_val.tar").write_bytes(content)


def devkit_files() -> dict[str, bytes]:
    """Three leaves, and a group above the thousand."""
    kinds = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")]
    synsets = np.empty((4, 1), dtype=kinds)
    for place, (number, wnid) in enumerate([*enumerate(WNIDS, start=1), (1001, "n99")]):
        synsets[place, 0] = (number, wnid, "word", "gloss", 0)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    truth = "".join(f"{number}\n" for number in TRUTH).encode()
    return {"meta.mat": meta.getvalue(), "ILSVRC2012_validation_ground_truth.txt": truth}


def devkit_tar(folder: Path) -> None:
    files = {f"ILSVRC2012_devkit_t12/data/{name}": content for name, content in devkit_files().items()}
    (folder / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(
        tar_of({**files, "ILSVRC2012_devkit_t12/readme.txt": b""}, "w:gz")
    )


def devkit_folder(folder: Path) -> None:
    place = folder / "ILSVRC2012_devkit_t12" / "data"
    place.mkdir(parents=True)
    for name, content in devkit_files().items():
        (place / name).write_bytes(content)


Part = Callable[[Path], None]
LAYOUTS: dict[str, tuple[Part, ...]] = {
    "train archive, val archive, devkit archive": (train_tar, val_tar, devkit_tar),
    "train archive, val archive, devkit": (train_tar, val_tar, devkit_folder),
    "train archive, val flat": (train_tar, val_flat, devkit_tar),
    "train archive, val sorted": (train_tar, val_tree),
    "train, val archive": (train_tree, val_tar, devkit_tar),
    "train, val flat": (train_tree, val_flat, devkit_folder),
    "train, val sorted": (train_tree, val_tree),
    "train, val sorted, devkit": (train_tree, val_tree, devkit_tar),
    "unpacked beside their archives": (train_tree, train_tar, val_tree, val_tar, devkit_tar),
}


def write(root: Path, *parts: Part) -> Path:
    folder = root / "imagenet"
    folder.mkdir(parents=True)
    for part in parts:
        part(folder)
    return folder


def message(root: Path) -> str:
    with pytest.raises(SourceError) as caught:
        _ = open_source("imagenet", str(root)).items
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("parts", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_gives_the_same_images(tmp_path, parts):
    source = open_source("imagenet", str(write(tmp_path / "a b", *parts).parent))
    assert source.classes == sorted(WNIDS)
    found = {Path(item.name).name: (item.label, item.split) for item in source.items}
    assert found == {
        **{Path(name).name: (name.split("/")[0], "train") for name in TRAIN_NAMES},
        **{name: (label, "test") for name, label in zip(VAL_NAMES, VAL_LABELS, strict=True)},
    }
    assert len({item.name for item in source.items}) == len(source.items) == 11
    for item in source.items:
        assert item.name.startswith("train/" if item.split == "train" else "val/")
        assert pixels_of(item) == expected(item.name)


@pytest.mark.parametrize("parts", [*LAYOUTS.values()][:6], ids=[*LAYOUTS][:6])
def test_a_path_is_known_by_what_lies_there(tmp_path, parts):
    folder = write(tmp_path, *parts)
    given = folder.rename(tmp_path / "elsewhere")
    assert len(open_source("elsewhere", str(tmp_path)).items) == len(imagenet_folder(given).items) == 11


def test_items_open_in_another_process_from_anywhere(tmp_path, monkeypatch):
    write(tmp_path, train_tar, val_tar, devkit_tar)
    monkeypatch.chdir(tmp_path)
    items = [*open_source("imagenet", ".").items]
    assert max(len(pickle.dumps(item)) for item in items) < 500
    monkeypatch.chdir("/")
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        assert [*processes.map(pixels_of, items)] == [expected(item.name) for item in items]


@pytest.mark.parametrize("part", [val_flat, val_tar])
@pytest.mark.parametrize("train", [train_tree, train_tar])
def test_validation_images_need_the_devkit(tmp_path, part, train):
    write(tmp_path, train, part)
    assert "ILSVRC2012_devkit_t12.tar.gz" in message(tmp_path)


@pytest.mark.parametrize("parts", [(val_tar, devkit_tar), (val_flat, devkit_tar)], ids=["archive", "flat"])
def test_validation_alone_is_refused(tmp_path, parts):
    folder = write(tmp_path, *parts)
    assert message(tmp_path) == f"{folder} lacks train/ and ILSVRC2012_img_train.tar; put one of them there"


@pytest.mark.parametrize(
    "archive", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"]
)
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6], ids=str)
def test_truncated_archive_is_named(tmp_path, archive, kept):
    path = write(tmp_path, train_tar, val_tar, devkit_tar) / archive
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    text = message(tmp_path)
    assert text.startswith(str(path))
    assert "damaged" in text


def test_truncated_class_archive_is_named(tmp_path):
    folder = write(tmp_path, val_tree)
    inner = tar_of({"n01_1.JPEG": jpeg(1), "n01_2.JPEG": jpeg(2)})
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar_of({"n01.tar": inner[:1024], "n02.tar": inner}))
    assert f"{folder / 'ILSVRC2012_img_train.tar'} (n01.tar) is truncated" in message(tmp_path)


def test_other_content_of_the_train_archive_is_refused(tmp_path):
    folder = write(tmp_path, val_tree)
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar_of({"a.JPEG": jpeg(1)}))
    assert "holds a.JPEG; ILSVRC2012_img_train.tar holds a .tar of each class" in message(tmp_path)


@pytest.mark.parametrize("name", ["ILSVRC2012_val_00000006.JPEG", "ILSVRC2012_val_00000000.JPEG", "cat.jpg"])
def test_validation_image_without_a_line_in_the_devkit_is_refused(tmp_path, name):
    folder = write(tmp_path, train_tree, val_flat, devkit_tar)
    (folder / "val" / name).write_bytes(jpeg(1))
    assert f"{name} has no label in the devkit's 5" in message(tmp_path)


def test_images_outside_class_folders_are_refused(tmp_path):
    folder = write(tmp_path, train_tree, val_tar, devkit_tar)
    (folder / "train" / "1.png").write_bytes(jpeg(1))
    assert "1 images lie outside a class folder" in message(tmp_path)


@pytest.mark.parametrize("damage", ["no meta", "no synsets", "unknown number"])
def test_damaged_devkit_is_refused(tmp_path, damage):
    folder = write(tmp_path, train_tree, val_flat, devkit_folder)
    place = folder / "ILSVRC2012_devkit_t12" / "data"
    if damage == "no meta":
        (place / "meta.mat").unlink()
    elif damage == "no synsets":
        savemat(place / "meta.mat", {"other": 1})
    else:
        (place / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n1001\n")
    assert "ILSVRC2012_devkit_t12" in message(tmp_path)


@pytest.mark.parametrize("parts", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_identity_is_known_without_reading_and_changes_with_the_files(tmp_path, parts):
    folder = write(tmp_path, *parts)
    identity = imagenet_folder(folder).identity
    used = ["ILSVRC2012_img_train.tar", "train/n01/n01_0.JPEG"]
    path = next(folder / name for name in reversed(used) if (folder / name).exists())
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(0, status.st_mtime_ns))
    assert imagenet_folder(folder).identity == identity
    os.utime(path, ns=(0, status.st_mtime_ns + 1))
    assert imagenet_folder(folder).identity != identity
