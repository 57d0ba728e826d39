"""Which images are held out, and how many of each class are taken."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from data.build import build
from data.sources.base import folder_source
from data.sources.named import open_source
from tests.support.data_files import contents, job, plain_source, rows


def counted(folder: Path, split: str) -> Counter[str]:
    """Images of each class."""
    return Counter(row["class_name"] for row in rows(folder, split))


def held(folder: Path, split: str) -> dict[str, str]:
    """Contents by source."""
    return {row["source"]: row["sha256"] for row in rows(folder, split)}


def test_seed_changes_split_and_order_and_which_are_taken(tmp_path):
    source = plain_source({"a": 20, "b": 20})
    for name, seed in (("first", 0), ("second", 0), ("third", 1)):
        build(source, tmp_path / name, job(seed=seed, max_images=4))
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    for split in ("train", "test"):
        assert held(tmp_path / "first", split) != held(tmp_path / "third", split)


def test_shards_do_not_go_class_by_class(tmp_path):
    build(plain_source({"a": 40, "b": 40}), tmp_path, job())
    labels = [row["label"] for row in rows(tmp_path, "train")]
    assert sum(one != two for one, two in pairwise(labels)) > 10


@pytest.mark.parametrize(
    ("fraction", "counts", "expected"),
    [
        (0.1, {"a": 40, "b": 20, "c": 60}, {"a": 4, "b": 2, "c": 6}),
        (0.25, {"a": 40, "b": 20, "c": 60}, {"a": 10, "b": 5, "c": 15}),
        (0.1, {"a": 2, "b": 3, "c": 30}, {"a": 1, "b": 1, "c": 3}),
        (1.0, {"a": 1, "b": 2, "c": 10}, {"b": 1, "c": 9}),
        (0.25, {None: 40}, {"": 10}),
    ],
    ids=["tenth", "quarter", "at least one", "one stays to train with", "no labels"],
)
def test_split_takes_the_fraction_of_each_class(tmp_path, fraction, counts, expected):
    dataset = build(plain_source(counts), tmp_path, job(test_fraction=fraction))
    assert counted(tmp_path, "test") == expected
    assert dataset.classes == [label for label in counts if label]
    assert ({row["label"] for row in rows(tmp_path)} == {-1}) == (None in counts)


@pytest.mark.parametrize("names", [("train", "test"), ("ood-train", "ood-test")], ids="/".join)
def test_splits_are_disjoint_and_complete(tmp_path, names):
    source = plain_source({"a": 17, "b": 9, None: 5})
    dataset = build(source, tmp_path, job(split_names=names))
    first, second = ({row["source"] for row in rows(tmp_path, name)} for name in names)
    assert not first & second
    assert first | second == {item.name for item in source.items}
    assert dataset.counts == {names[0]: len(first), names[1]: len(second)}
    assert len(rows(tmp_path)) == len({row["key"] for row in rows(tmp_path)}) == 31


def test_folders_own_splits_are_kept_under_the_jobs_names(tmp_path, write_images):
    names = ["train/a/1.png", "train/a/2.png", "train/b/1.png", "val/a/3.png", "val/b/2.png"]
    source = folder_source(write_images(tmp_path / "in", *names))
    dataset = build(source, tmp_path / "out", job(split_names=("ood-train", "ood-test")))
    for split, folder in (("ood-train", "train"), ("ood-test", "val")):
        sources = {row["source"] for row in rows(tmp_path / "out", split)}
        assert sources == {name for name in names if name.startswith(folder)}
    assert dataset.counts == {"ood-train": 3, "ood-test": 2}


@pytest.mark.parametrize(
    ("counts", "max_images", "expected"),
    [
        ({"a": 40, "b": 40}, 10, {"a": 5, "b": 5}),
        ({"a": 40, "b": 40, "c": 40}, 9, {"a": 3, "b": 3, "c": 3}),
        ({"a": 4, "b": 40, "c": 40}, 12, {"a": 2, "b": 5, "c": 5}),  # half of a's are for testing
        ({"a": 40, "b": 40}, 1000, {"a": 20, "b": 20}),
        ({None: 40}, 7, {"": 7}),
    ],
    ids=["two", "three", "few of one", "more than there are", "no labels"],
)
def test_max_images_takes_evenly_over_classes(tmp_path, counts, max_images, expected):
    dataset = build(plain_source(counts), tmp_path, job(test_fraction=0.5, max_images=max_images))
    for split in ("train", "test"):
        assert counted(tmp_path, split) == expected
    assert dataset.counts == dict.fromkeys(("train", "test"), sum(expected.values()))


@pytest.mark.parametrize("max_images", [1, 2, 5, 7, 11])
def test_max_images_differ_by_one_between_classes(tmp_path, max_images):
    dataset = build(plain_source(dict.fromkeys("abc", 9)), tmp_path, job(max_images=max_images))
    per_class = [counted(tmp_path, "train")[label] for label in "abc"]
    assert sum(per_class) == max_images
    assert max(per_class) - min(per_class) <= 1
    assert dataset.classes == list("abc")  # those without images keep their labels


def test_max_images_are_some_of_all_with_the_same_contents(tmp_path):
    source = plain_source({"a": 20, "b": 20})
    for name, max_images in (("all", None), ("many", 9), ("few", 4)):
        build(source, tmp_path / name, job(max_images=max_images))
    for split in ("train", "test"):
        few, many, all_ = (held(tmp_path / name, split).items() for name in ("few", "many", "all"))
        assert few < many < all_


def test_photographs_know_their_classes_with_a_handful_of_images(tmp_path):
    few = job(short_side=8, encoding="jpg", max_images=3)
    dataset = build(open_source("photographs-1000", "."), tmp_path, few)
    assert (len(dataset.classes), dataset.counts) == (1000, {"train": 3, "test": 3})
    for row in rows(tmp_path):
        assert dataset.classes[row["label"]] == row["class_name"] == f"{row['label']:04d}"
