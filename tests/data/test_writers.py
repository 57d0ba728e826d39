"""Exported arrays and PNG files: in the manifest's order, and complete or absent."""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from data import writers
from data.folders import UNFINISHED
from data.images import open_images
from data.writers import write_npz, write_pngs
from tests.support.pixels import as_rgb

WRITERS = pytest.mark.parametrize("write", [write_npz, write_pngs], ids=["npz", "png"])


@pytest.fixture(autouse=True)
def several_batches(monkeypatch):
    monkeypatch.setattr(writers, "_BATCH_BYTES", 500)  # four RGB images of 6x6, or thirteen grey ones


@pytest.mark.parametrize("split", ["train", "test"])
def test_npz_is_what_numpy_writes(known_shards, tmp_path, split):
    """Members as `numpy.savez` has them, stored without a time, as the evaluator streams them."""
    write_npz(tmp_path / "new" / "a.npz", *open_images(known_shards.folder, split))
    expected, labels = io.BytesIO(), np.array(known_shards.labels[split], dtype=np.int64)
    np.savez(expected, as_rgb(known_shards.pixels[split]), labels)
    with zipfile.ZipFile(tmp_path / "new" / "a.npz") as made, zipfile.ZipFile(expected) as theirs:
        assert made.namelist() == theirs.namelist() == ["arr_0.npy", "arr_1.npy"]
        assert [made.read(name) for name in made.namelist()] == [theirs.read(n) for n in theirs.namelist()]
        stored = {(info.compress_type, info.date_time) for info in made.infolist()}
    assert stored == {(zipfile.ZIP_STORED, (1980, 1, 1, 0, 0, 0))}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.npz"]


@pytest.mark.parametrize("there", [False, True], ids=["new", "empty"])
def test_pngs_are_the_images(known_shards, tmp_path, there):
    folder = tmp_path / "new" / "png"
    if there:
        folder.mkdir(parents=True)
    write_pngs(folder, *open_images(known_shards.folder, "train"))
    pixels, labels = known_shards.pixels["train"], known_shards.labels["train"]
    assert sorted(p.name for p in folder.iterdir()) == [f"{n:06d}_{y}.png" for n, y in enumerate(labels)]
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        made = np.asarray(Image.open(folder / f"{number:06d}_{label}.png"))
        assert np.array_equal(made, image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    assert [path.name for path in folder.parent.iterdir()] == ["png"]


@WRITERS
@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_failure_leaves_nothing(own_shards, tmp_path, monkeypatch, write, error):
    images, labels = open_images(own_shards.folder, "train")
    read, folder = images.get, tmp_path / "out"

    def get(indices) -> torch.Tensor:
        if 10 not in indices:
            return read(indices)
        (left,) = folder.iterdir()  # what a kill would leave
        assert (left.name[:3], left.name.endswith(UNFINISHED)) == (".a.", True)
        raise error("planted")

    monkeypatch.setattr(images, "get", get)
    with pytest.raises(error, match="planted"):
        write(folder / "a", images, labels)
    assert list(folder.iterdir()) == []


@WRITERS
@pytest.mark.parametrize(
    "labels", [torch.zeros(10).long(), torch.zeros(11), torch.zeros(11, 1).long()], ids=["few", "float", "2d"]
)
def test_labels_must_fit(own_shards, tmp_path, write, labels):
    images, _ = open_images(own_shards.folder, "train")
    with pytest.raises(ValueError, match=r"labels: \(.*; give \(11,\) torch.int64"):
        write(tmp_path / "a", images, labels)
    assert not (tmp_path / "a").exists()


def test_progress_is_told(own_shards, tmp_path):
    told = []
    write_npz(tmp_path / "a.npz", *open_images(own_shards.folder, "train"), lambda *done: told.append(done))
    assert told == [(4, 11), (8, 11), (11, 11)]
