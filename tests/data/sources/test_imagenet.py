"""ImageNet-1k as published: archives within archives, numbered validation images, the devkit's labels."""

import io
import pickle
import zlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from data.sources.imagenet import imagenet_folder
from data.sources.named import open_source
from tests.support.data_files import (
    assert_known_by_size_and_time,
    message_of,
    picture,
    pixels_of,
    shown,
    tar_bytes,
    write_files,
)

WNIDS = ["n03", "n01", "n02"]  # of ids 1, 2, 3: not in their order
TRUTH = [2, 3, 1, 1, 2]
VAL_LABELS = [WNIDS[number - 1] for number in TRUTH]
VAL_NAMES = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 6)]
TRAIN, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_devkit_t12"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
Part = dict[str, bytes]  # contents by name
TRAIN_NAMES = [f"{wnid}/{wnid}_{number}.JPEG" for wnid in sorted(WNIDS) for number in range(2)]


def image_of(name: str) -> bytes:
    """Each image has its own pixels, which follow from its name alone."""
    return picture(zlib.crc32(Path(name).name.encode()), kind="JPEG")


def devkit_files() -> dict[str, bytes]:
    """Three leaves, and a group above the thousand."""
    kinds = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")]
    synsets = np.empty((4, 1), dtype=kinds)
    for place, (number, wnid) in enumerate([*enumerate(WNIDS, start=1), (1001, "n99")]):
        synsets[place, 0] = (number, wnid, "word", "gloss", 0)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    truth = "".join(f"{number}\n" for number in TRUTH).encode()
    return {f"{DEVKIT}/data/meta.mat": meta.getvalue(), f"{DEVKIT}/data/{GROUND_TRUTH}": truth}


INNER_TARS = {
    f"{wnid}.tar": tar_bytes(
        {Path(name).name: image_of(name) for name in TRAIN_NAMES if name.startswith(wnid)}
    )
    for wnid in sorted(WNIDS, reverse=True)
}
train_tree = {f"train/{name}": image_of(name) for name in TRAIN_NAMES}
train_tar = {TRAIN: tar_bytes(INNER_TARS)}
val_tree = {f"val/{wnid}/{name}": image_of(name) for name, wnid in zip(VAL_NAMES, VAL_LABELS, strict=True)}
val_flat = {f"val/{name}": image_of(name) for name in VAL_NAMES}
val_tar = {"ILSVRC2012_img_val.tar": tar_bytes({name: image_of(name) for name in reversed(VAL_NAMES)})}
devkit_folder = devkit_files()
devkit_tar = {f"{DEVKIT}.tar.gz": tar_bytes({**devkit_files(), f"{DEVKIT}/readme.txt": b""}, "w:gz")}
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
    for part in parts:
        write_files(root / "imagenet", part)
    return root / "imagenet"


def message(root: Path) -> str:
    return message_of(open_source, "imagenet", str(root))


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
        assert pixels_of(item) == shown(image_of(item.name))
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
        assert [*processes.map(pixels_of, items)] == [shown(image_of(item.name)) for item in items]


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


FLAT = (train_tree, val_flat)
TREE, UNPACKED, META = (*FLAT, devkit_tar), (*FLAT, devkit_folder), f"{DEVKIT}/data/meta.mat"
REFUSED = {
    "no devkit, flat": (FLAT, f"put {DEVKIT}.tar.gz there"),
    "no devkit, packed": ((train_tar, val_tar), f"put {DEVKIT}.tar.gz beside it"),
    "no train, flat": ((val_flat, devkit_tar), f"lacks train/ and {TRAIN}; put one of them there"),
    "no train, packed": ((val_tar, devkit_tar), f"lacks train/ and {TRAIN}; put one of them there"),
    "a class cut": (
        (val_tree, {TRAIN: tar_bytes({"n01.tar": INNER_TARS["n01.tar"][:1024]})}),
        "(n01.tar) is truncated",
    ),
    "no class": ((val_tree, {TRAIN: tar_bytes({"a.JPEG": b""})}), f"holds a.JPEG; {TRAIN} holds a"),
    "unsorted val": (({"train/a/1.png": b"", "val/1.png": b""},), "1 images lie outside a class folder"),
    "unsorted test": (({"train/a/1.png": b"", "test/1.png": b""},), "outside a class folder (test/1.png"),
    "outside a class": ((train_tree, val_tar, devkit_tar, {"train/1.png": b""}), "1 images lie outside"),
    "line 6 of 5": ((*TREE, {"val/ILSVRC2012_val_00000006.JPEG": b""}), "6.JPEG has no label in the"),
    "line 0": ((*TREE, {"val/ILSVRC2012_val_00000000.JPEG": b""}), "0.JPEG has no label in the"),
    "no number": ((*TREE, {"val/cat.jpg": b""}), "cat.jpg has no label in the devkit's 5"),
    "no meta": ((*FLAT, {f"{DEVKIT}/data/{GROUND_TRUTH}": b""}), "meta.mat does not exist; unpack"),
    "meta of nothing": ((*UNPACKED, {META: b"MATLAB 5.0".ljust(124) + b"\x00\x01IM"}), "has no structs"),
    "other meta": ((*UNPACKED, {META: b"other"}), f"{DEVKIT} is damaged"),
    "unknown id": (
        (*UNPACKED, {f"{DEVKIT}/data/{GROUND_TRUTH}": b"1\n1001\n"}),
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
    used = [TRAIN, "train/n01/n01_0.JPEG"]
    path = next(folder / name for name in used if (folder / name).exists())
    assert_known_by_size_and_time(lambda: imagenet_folder(folder), path)
