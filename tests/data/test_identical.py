"""Identical images under two labels or on both sides of a split are named."""

from data.build import build
from data.prepare import main
from data.sources.base import folder_source
from tests.support.data_files import job


def test_identical_images_under_two_labels_are_named(tmp_path, write_images, capsys):
    write_images(
        tmp_path / "in",
        *(f"{split}/{own}/{n}.png" for split in ("train", "test") for own in "ab" for n in "123"),
    )
    copies = {
        "train/b/copy.png": "train/a/1.png",
        "test/a/leak.png": "train/a/2.png",
        "train/a/same.png": "train/a/3.png",
    }
    for copy, original in copies.items():
        (tmp_path / "in" / copy).write_bytes((tmp_path / "in" / original).read_bytes())
    dataset = build(folder_source(tmp_path / "in"), tmp_path / "out", job())
    told = sorted(
        sorted(zip(g["sources"], g["classes"], g["splits"], strict=True)) for g in dataset.identical
    )
    assert told == [
        [("test/a/leak.png", "a", "test"), ("train/a/2.png", "a", "train")],
        [("train/a/1.png", "a", "train"), ("train/b/copy.png", "b", "train")],
    ]
    main(source=str(tmp_path / "in"), out=str(tmp_path / "again"), image_size=4)
    said = capsys.readouterr().err
    assert said.count("identical images: ") == 2
    assert "train/b/copy.png (b, train)" in said


def test_all_groups_of_identical_images_are_counted(tmp_path, write_images):
    images = write_images(tmp_path / "in", *(f"{own}/{n}.png" for own in "ab" for n in range(120)))
    for number in range(120):
        (images / "b" / f"{number}.png").write_bytes((images / "a" / f"{number}.png").read_bytes())
    dataset = build(folder_source(images), tmp_path / "out", job())
    assert (len(dataset.identical), dataset.num_identical) == (100, 120)
