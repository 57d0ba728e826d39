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
from scipy.io import savemat

from data.sources.imagenet import imagenet_folder
from data.sources.named import open_source
from tests.support.data_files import message_of, picture, pixels_of, shown

WNIDS = ["n03", "n01", "n02"]  # of ids 1, 2, 3: not in their order
TRUTH = [2, 3, 1, 1, 2]
VAL_LABELS = [WNIDS[number - 1] for number in TRUTH]
VAL_NAMES = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 6)]
TRAIN_NAMES = [f"{wnid}/{wnid}_{number}.JPEG" for wnid in sorted(WNIDS) for number in range(2)]


def jpeg(seed: int) -> bytes:
    return picture(seed, kind="JPEG")


def seed_of(name: str) -> int:
    """Each image has its own seed, which follows from its name alone."""
    return (
        sum(map(ord, Path(name).name))
        if "val" in name
        else 1000 + TRAIN_NAMES.index("/".join(Path(name).parts[-2:]))
    )


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
    return message_of(lambda: open_source("imagenet", str(root)))


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
        assert pixels_of(item) == shown(jpeg(seed_of(item.name)))
    elsewhere = (tmp_path / "a b" / "imagenet").rename(tmp_path / "elsewhere")  # known by what lies there
    assert len(open_source("elsewhere", str(tmp_path)).items) == len(imagenet_folder(elsewhere).items) == 11


@pytest.mark.slow
def test_items_open_in_another_process_from_anywhere(tmp_path, monkeypatch):
    write(tmp_path, train_tar, val_tar, devkit_tar)
    monkeypatch.chdir(tmp_path)
    items = [*open_source("imagenet", ".").items]
    assert max(len(pickle.dumps(item)) for item in items) < 500
    monkeypatch.chdir("/")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        assert [*processes.map(pixels_of, items)] == [shown(jpeg(seed_of(item.name))) for item in items]


@pytest.mark.parametrize("split", ["val", "test"])
def test_unsorted_images_are_refused(tmp_path, write_images, split):
    """Flat archives, like the official val and test archives, have no labels."""
    names = ["train/n01/1.png", "train/n02/1.png", f"{split}/1.png", f"{split}/2.png"]
    write_images(tmp_path / "imagenet", *names)
    assert f"2 images lie outside a class folder ({split}/1.png, say)" in message(tmp_path)


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


def put(name: str, content: bytes) -> Part:
    return lambda folder: (folder / name).write_bytes(content) and None


INNER = tar_of({"n01_1.JPEG": jpeg(1), "n01_2.JPEG": jpeg(2)})
TRAIN, TREE, DEVKIT = "ILSVRC2012_img_train.tar", (train_tree, val_flat, devkit_tar), "ILSVRC2012_devkit_t12"
UNPACKED, META = (train_tree, val_flat, devkit_folder), f"{DEVKIT}/data/meta.mat"
REFUSED = {
    "no devkit, flat": ((train_tree, val_flat), f"put {DEVKIT}.tar.gz there"),
    "no devkit, packed": ((train_tar, val_tar), f"put {DEVKIT}.tar.gz beside it"),
    "no train, flat": ((val_flat, devkit_tar), f"lacks train/ and {TRAIN}; put one of them there"),
    "no train, packed": ((val_tar, devkit_tar), f"lacks train/ and {TRAIN}; put one of them there"),
    "a class cut": ((val_tree, put(TRAIN, tar_of({"n01.tar": INNER[:1024]}))), "(n01.tar) is truncated"),
    "no class": ((val_tree, put(TRAIN, tar_of({"a.JPEG": b""}))), f"holds a.JPEG; {TRAIN} holds a .tar of"),
    "outside a class": ((train_tree, val_tar, devkit_tar, put("train/1.png", b"")), "1 images lie outside"),
    "line 6 of 5": ((*TREE, put("val/ILSVRC2012_val_00000006.JPEG", b"")), "6.JPEG has no label in the"),
    "line 0": (
        (*TREE, put("val/ILSVRC2012_val_00000000.JPEG", b"")),
        "0.JPEG has no label in the devkit's 5",
    ),
    "no number": ((*TREE, put("val/cat.jpg", b"")), "cat.jpg has no label in the devkit's 5"),
    "no meta": ((*UNPACKED, lambda folder: (folder / META).unlink()), "meta.mat does not exist; unpack"),
    "meta of nothing": ((*UNPACKED, put(META, b"MATLAB 5.0".ljust(124) + b"\x00\x01IM")), "has no structs"),
    "other meta": ((*UNPACKED, put(META, b"other")), f"{DEVKIT} is damaged"),
    "unknown id": (
        (*UNPACKED, put(f"{DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt", b"1\n1001\n")),
        f"{DEVKIT} is damaged",
    ),
}


@pytest.mark.parametrize(("parts", "told"), REFUSED.values(), ids=REFUSED)
def test_what_is_missing_or_odd_is_named(tmp_path, parts, told):
    write(tmp_path, *parts)
    assert told in message(tmp_path)


@pytest.mark.parametrize(
    "parts", [(train_tar, val_tar, devkit_tar), (train_tree, val_flat, devkit_folder)], ids=["packed", "tree"]
)
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
