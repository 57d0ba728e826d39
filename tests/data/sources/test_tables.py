"""Parquet files and saved Hugging Face data sets: columns, labels, splits, damage."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.sources.base import SourceError
from data.sources.named import open_source
from data.sources.tables import table_source
from tests.support.data_files import message_of, picture, pixels_of, shown
from tests.support.hostile_files import assert_refused
from tests.support.tables import (
    NAMES,
    STRUCT,
    noted,
    structs,
    table_of,
    write_dict,
    write_parquet,
    write_stream,
)

REFUSED = {
    "a long label": "a name of 1,048,576 bytes",
    "labels that are no text": "Invalid UTF8",
    "a path that is none": "which is no file",
    "a deep list": "is missing or damaged",
    "a deep value": "is missing or damaged",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_words(hostile_sources, name):
    assert_refused(hostile_sources[name], REFUSED[name])


def test_a_file_gives_its_images_and_class_names(tmp_path):
    source = table_source(write_parquet(tmp_path / "a b.parquet"))
    assert source.classes == sorted(NAMES)
    assert [item.label for item in source.items] == NAMES * 2
    assert [item.name for item in source.items] == [f"a b.parquet/{row}" for row in range(6)]
    assert [pixels_of(item) for item in source.items] == [shown(picture(seed)) for seed in range(6)]


SPLITS = {
    "hub names": {"data/train-00000-of-00001": "train", "data/test-00000-of-00001": "test"},
    "validation": {"train-0": "train", "validation-0": "test"},
    "folders": {"train/0000": "train", "val/0000": "test"},
    "short names": {"train": "train", "valid": "test"},
    "capitals": {"Train": "train", "TEST_1": "test"},
    "train alone": {"train-00000-of-00002": None, "train-00001-of-00002": None},
    "no words": {"0": None, "1": None},
    "part of a word": {"trainer": None, "testament": None},
    "test alone": {"test": None},
}


@pytest.mark.parametrize("splits", SPLITS.values(), ids=SPLITS)
def test_file_names_and_folders_say_the_split(tmp_path, splits):
    for file in splits:
        write_parquet(tmp_path / f"{file}.parquet", num=1)
    source = open_source(tmp_path.name, str(tmp_path.parent))
    found = {item.name: item.split for item in source.items}
    assert found == {f"{file}.parquet/0": split for file, split in splits.items()}


@pytest.mark.parametrize("kind", [STRUCT, pa.binary(), pa.large_binary()], ids=["struct", "binary", "large"])
def test_image_columns(tmp_path, kind):
    """Any column of bytes; of several the one with a usual name."""
    values = structs(3) if kind == STRUCT else pa.array([picture(n) for n in range(3)], kind)
    for columns in ({"number": [1, 2, 3], "picture": values}, {"mask": [b"a"] * 3, "image": values}):
        items = table_source(table_of(tmp_path / "x.parquet", **columns)).items
        assert [pixels_of(item) for item in items] == [shown(picture(seed)) for seed in range(3)]
        assert {item.label for item in items} == {None}


@pytest.mark.parametrize("columns", [{"text": ["a"]}, {"one": [b"a"], "two": [b"a"]}], ids=["none", "two"])
def test_unclear_image_column_is_refused(tmp_path, columns):
    text = message_of(table_source, table_of(tmp_path / "x.parquet", **columns))
    assert f"x.parquet has the columns {', '.join(columns)}; images are bytes" in text


LABELS = {
    "text": (["b", "a", "b"], ["b", "a", "b"]),
    "few numbers": ([2, 0, 1], ["2", "0", "1"]),
    "many numbers": ([2, 0, 110], ["002", "000", "110"]),
    "unsigned": (pa.array([2, 0, 10], pa.uint8()), ["02", "00", "10"]),
    "categories": (pa.array(["b", "a", "b"]).dictionary_encode(), ["b", "a", "b"]),
    "none at all": (pa.nulls(3, pa.int64()), [None, None, None]),
    "all unknown": ([-1, -1, -1], [None, None, None]),
}


@pytest.mark.parametrize(("labels", "classes"), LABELS.values(), ids=LABELS.keys())
@pytest.mark.parametrize("column", ["label", "fine_label"])
def test_labels_without_known_names(tmp_path, labels, classes, column):
    columns = {"image": structs(3), column: labels, "coarse_label": [0, 0, 0]}
    assert table_source(table_of(tmp_path / "x.parquet", **columns)).labels == classes


def test_numbers_are_as_wide_in_every_file(tmp_path):
    table_of(tmp_path / "train.parquet", image=structs(2), label=[0, 10])
    table_of(tmp_path / "test.parquet", image=structs(1), label=[3])
    assert table_source(tmp_path).classes == ["00", "03", "10"]


@pytest.mark.parametrize(
    ("labels", "part"),
    [
        (pa.array([1.0, 2.0]), "labels in label are double; use integers or text"),
        (pa.array([[1], [2]]), "labels in label are list"),
        (pa.array([-2, 0]), "run from -2 to 0"),
        (pa.array([0, -1]), "1 images have no label, others have"),
        (pa.array(["a", None]), "1 images have no label, others have"),
    ],
    ids=["fractions", "lists", "negative", "unknown in part", "missing in part"],
)
def test_unclear_labels_are_refused(tmp_path, labels, part):
    path = table_of(tmp_path / "x.parquet", image=structs(2), label=labels)
    text = message_of(table_source, path)
    assert part in text
    assert str(path) in text


def test_a_test_file_without_labels_is_named(tmp_path):
    """As the Hub's ImageNet has it: train, validation, and a test without labels."""
    write_parquet(tmp_path / "train-0.parquet")
    pq.write_table(noted(pa.table({"image": structs(2), "label": [-1, -1]})), tmp_path / "test-0.parquet")
    assert f"{tmp_path / 'test-0.parquet'}: 2 images have no label" in message_of(table_source, tmp_path)


@pytest.mark.parametrize("note", [b"{", b"[]", b'{"info": null}', b'{"info": {"features": {"label": {}}}}'])
def test_unreadable_notes_are_no_notes(tmp_path, note):
    table = pa.table({"image": structs(1), "label": [0]}).replace_schema_metadata({b"huggingface": note})
    pq.write_table(table, tmp_path / "x.parquet")
    assert table_source(tmp_path / "x.parquet").labels == ["0"]


def test_saved_data_sets(tmp_path):
    alone = table_source(write_stream(tmp_path / "alone"))
    assert [item.label for item in alone.items] == NAMES * 2
    assert [pixels_of(item) for item in alone.items] == [shown(picture(seed)) for seed in range(6)]
    assert set(alone.splits) == {None}
    both = open_source("both", str(write_dict(tmp_path / "both", train=8, test=4).parent))
    assert [item.split for item in both.items] == ["train"] * 8 + ["test"] * 4
    seeds = (*range(8), *range(100, 104))
    assert [pixels_of(item) for item in both.items] == [shown(picture(seed)) for seed in seeds]


@pytest.mark.parametrize(
    ("file", "content", "part"),
    [
        ("train/state.json", None, "state.json is missing or damaged"),
        ("train/state.json", b"{", "state.json is missing or damaged"),
        ("train/state.json", b'{"_data_files": 3}', "_data_files is no list"),
        ("train/data-00001-of-00002.arrow", None, "does not exist though"),
        ("dataset_dict.json", b"[]", "dataset_dict.json is missing or damaged"),
        ("train/data-00001-of-00002.arrow", b"", "data-00001-of-00002.arrow is truncated, damaged"),
    ],
)
def test_damaged_saved_data_sets_are_refused(tmp_path, file, content, part):
    write_dict(tmp_path, train=4, test=4)
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_bytes(content)
    assert part in message_of(table_source, tmp_path)


def test_saved_names_cannot_lead_out(tmp_path):
    write_stream(tmp_path / "x")
    write_stream(tmp_path / "secret")
    state = {"_data_files": [{"filename": "../secret/data-00000-of-00002.arrow"}]}
    (tmp_path / "x" / "state.json").write_text(json.dumps(state))
    names = {item.name for item in table_source(tmp_path / "x").items}
    assert names == {f"data-00000-of-00002.arrow/{row}" for row in range(3)}


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_truncated_file_is_named(tmp_path, kind):
    write_stream(tmp_path / "x") if kind == "arrow" else write_parquet(tmp_path / "x" / "1.parquet")
    path = sorted((tmp_path / "x").glob(f"*.{kind}"))[0]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    assert message_of(table_source, tmp_path / "x").startswith(
        f"{path} is truncated, damaged or no such table"
    )


@pytest.mark.parametrize("change", ["touch", "add", "rename"])
def test_identity_changes_with_the_files(tmp_path, change):
    path = write_parquet(tmp_path / "a.parquet")
    before = table_source(tmp_path).identity
    assert table_source(tmp_path).identity == before
    if change == "touch":
        os.utime(path, ns=(0, 1))
    elif change == "add":
        write_parquet(tmp_path / "b.parquet")
    else:
        path.rename(tmp_path / "c.parquet")
    assert table_source(tmp_path).identity != before


def test_folders_of_images_with_descriptions_stay_folders_of_images(tmp_path, write_images):
    write_images(tmp_path, "cat/1.png")
    table_of(tmp_path / "metadata.parquet", file_name=["cat/1.png"])
    assert [item.label for item in open_source(tmp_path.name, str(tmp_path.parent)).items] == ["cat"]


def test_unusable_tables_are_refused(tmp_path):
    with pytest.raises(SourceError, match=r"holds no table; give \.parquet files"):
        table_source(tmp_path)
    path = table_of(tmp_path / "x.parquet", image=structs(0))
    assert "tables without rows" in message_of(table_source, path)
    table_of(path, image=pa.array([{"bytes": None, "path": "pictures/a.png"}], STRUCT))
    assert message_of(table_source, path).endswith("give the folder of both")
    pq.write_table(noted(pa.table({"image": structs(1), "label": [3]})), path)
    assert "run from 3 to 3; 3 have names" in message_of(table_source, path)
    path.write_bytes(b"no table")
    assert table_source(path).identity  # is known without reading
    assert message_of(table_source, path).startswith(f"{path} is truncated, damaged")
    for file in ("train-0.parquet", "test-0.parquet"):
        write_parquet(tmp_path / file)
    told = "has test and train beside x.parquet; keep only train and test (or val)"
    assert message_of(table_source, tmp_path) == f"{tmp_path} {told}"
