"""Parquet files and saved Hugging Face data sets: columns, labels, splits, damage, opening from elsewhere."""

import io
import json
import os
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.decode import UndecodableError, read_square
from data.parquet_guard import read_metadata, refuse_bomb
from data.sources import rows
from data.sources.base import Item, SourceError
from data.sources.named import open_source
from data.sources.tables import table_source

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = ["zebra", "ant", "cat with 'quotes' 猫"]


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def structs(num: int, first: int = 0) -> pa.Array:
    return pa.array([{"bytes": png(first + n), "path": f"{n}.png"} for n in range(num)], STRUCT)


def noted(table: pa.Table, column: str = "label", names: list[str] = NAMES) -> pa.Table:
    """With class names where Hugging Face notes them."""
    features = {"image": {"_type": "Image"}, column: {"names": names, "_type": "ClassLabel"}}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write_parquet(path: Path, num: int = 6, first: int = 0, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": structs(num, first), "label": [n % 3 for n in range(num)]})
    pq.write_table(noted(table), path, row_group_size=4, **options)
    return path


def write_stream(folder: Path, num: int = 6, first: int = 0) -> Path:
    """As `save_to_disk` writes one split: two files of batches of two rows."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [f"data-{n:05d}-of-00002.arrow" for n in range(2)]
    half = num // 2
    for number, file in enumerate(files):
        labels = [n % 3 for n in range(number * half, (number + 1) * half)]
        table = noted(pa.table({"image": structs(half, first + number * half), "label": labels}))
        with pa.OSFile(str(folder / file), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    state = {"_data_files": [{"filename": file} for file in files], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def write_dict(folder: Path, **splits: int) -> Path:
    for first, (split, num) in enumerate(splits.items()):
        write_stream(folder / split, num, 100 * first)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": [*splits]}))
    return folder


def pixels_of(item: Item) -> bytes:
    return item.open().tobytes()


def expected(seed: int) -> bytes:
    return Image.open(io.BytesIO(png(seed))).tobytes()


def message(path: Path) -> str:
    with pytest.raises(SourceError) as caught:
        _ = table_source(path).items
    assert "\n" not in str(caught.value)
    return str(caught.value)


def table_of(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_a_file_gives_its_images_and_class_names(tmp_path):
    source = table_source(write_parquet(tmp_path / "a b.parquet"))
    assert source.classes == sorted(NAMES)
    assert [item.label for item in source.items] == NAMES * 2
    assert [item.name for item in source.items] == [f"a b.parquet/{row}" for row in range(6)]
    assert [pixels_of(item) for item in source.items] == [expected(seed) for seed in range(6)]


SPLITS = {
    "hub names": (
        ["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"],
        ["test", "train"],
    ),
    "validation": (["train-0.parquet", "validation-0.parquet"], ["train", "test"]),
    "folders": (["train/0000.parquet", "val/0000.parquet"], ["train", "test"]),
    "short names": (["train.parquet", "valid.parquet"], ["train", "test"]),
    "capitals": (["Train.parquet", "TEST_1.parquet"], ["test", "train"]),
    "train alone": (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"], [None, None]),
    "no words": (["0.parquet", "1.parquet"], [None, None]),
    "part of a word": (["trainer.parquet", "testament.parquet"], [None, None]),
    "test alone": (["test.parquet"], [None]),
}


@pytest.mark.parametrize(("files", "splits"), SPLITS.values(), ids=SPLITS.keys())
def test_file_names_and_folders_say_the_split(tmp_path, files, splits):
    for file in files:
        write_parquet(tmp_path / file, num=1)
    source = open_source(tmp_path.name, str(tmp_path.parent))
    assert [item.split for item in source.items] == splits
    assert sorted(item.name for item in source.items) == sorted(f"{file}/0" for file in files)


def test_splits_beside_something_else_are_refused(tmp_path):
    for file in ("train-0.parquet", "test-0.parquet", "extra.parquet"):
        write_parquet(tmp_path / file)
    assert message(tmp_path) == (
        f"{tmp_path} has test and train beside extra.parquet; keep only train and test (or val)"
    )


@pytest.mark.parametrize("name", ["image", "img", "jpg", "png", "bytes", "picture"])
@pytest.mark.parametrize("kind", [STRUCT, pa.binary(), pa.large_binary()], ids=["struct", "binary", "large"])
def test_image_columns(tmp_path, name, kind):
    values = structs(3) if kind == STRUCT else pa.array([png(n) for n in range(3)], kind)
    path = table_of(tmp_path / "x.parquet", number=[1, 2, 3], **{name: values})
    assert [pixels_of(item) for item in table_source(path).items] == [expected(seed) for seed in range(3)]


def test_a_usual_name_wins_over_other_bytes(tmp_path):
    path = table_of(tmp_path / "x.parquet", mask=[png(9)], image=[png(1)])
    assert pixels_of(table_source(path).items[0]) == expected(1)


@pytest.mark.parametrize("columns", [{"text": ["a"]}, {"one": [b"a"], "two": [b"a"]}], ids=["none", "two"])
def test_unclear_image_column_is_refused(tmp_path, columns):
    text = message(table_of(tmp_path / "x.parquet", **columns))
    assert f"x.parquet has the columns {', '.join(columns)}; images are bytes" in text


LABELS = {
    "text": (["b", "a", "b"], ["b", "a", "b"]),
    "few numbers": ([2, 0, 1], ["2", "0", "1"]),
    "many numbers": ([2, 0, 110], ["002", "000", "110"]),
    "unsigned": (pa.array([2, 0, 10], pa.uint8()), ["02", "00", "10"]),
    "categories": (pa.array(["b", "a", "b"]).dictionary_encode(), ["b", "a", "b"]),
    "none at all": ([None, None, None], [None, None, None]),
    "all unknown": ([-1, -1, -1], [None, None, None]),
}


@pytest.mark.parametrize(("labels", "classes"), LABELS.values(), ids=LABELS.keys())
@pytest.mark.parametrize("column", ["label", "labels", "class", "fine_label", "target"])
def test_labels_without_known_names(tmp_path, labels, classes, column):
    labels = pa.nulls(3, pa.int64()) if labels == [None, None, None] else labels
    path = table_of(
        tmp_path / "x.parquet", **{"image": structs(3), column: labels, "coarse_label": [0, 0, 0]}
    )
    assert table_source(path).labels == classes


def test_numbers_are_as_wide_in_every_file(tmp_path):
    table_of(tmp_path / "train.parquet", image=structs(2), label=[0, 10])
    table_of(tmp_path / "test.parquet", image=structs(1), label=[3])
    assert table_source(tmp_path).classes == ["00", "03", "10"]


def test_tables_without_a_label_column_are_unlabelled(tmp_path):
    assert table_source(table_of(tmp_path / "x.parquet", image=structs(2))).labels == [None, None]


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
    text = message(path)
    assert part in text
    assert str(path) in text


def test_label_beyond_the_known_names_is_refused(tmp_path):
    table = noted(pa.table({"image": structs(1), "label": [3]}))
    pq.write_table(table, tmp_path / "x.parquet")
    assert "run from 3 to 3; 3 have names" in message(tmp_path / "x.parquet")


def test_a_test_file_without_labels_is_named(tmp_path):
    """As the Hub's ImageNet has it: train, validation, and a test without labels."""
    write_parquet(tmp_path / "train-0.parquet")
    pq.write_table(noted(pa.table({"image": structs(2), "label": [-1, -1]})), tmp_path / "test-0.parquet")
    assert f"{tmp_path / 'test-0.parquet'}: 2 images have no label" in message(tmp_path)


@pytest.mark.parametrize("note", [b"{", b"[]", b'{"info": null}', b'{"info": {"features": {"label": {}}}}'])
def test_unreadable_notes_are_no_notes(tmp_path, note):
    table = pa.table({"image": structs(1), "label": [0]}).replace_schema_metadata({b"huggingface": note})
    pq.write_table(table, tmp_path / "x.parquet")
    assert table_source(tmp_path / "x.parquet").labels == ["0"]


def test_saved_data_sets(tmp_path):
    alone = table_source(write_stream(tmp_path / "alone"))
    assert [item.label for item in alone.items] == NAMES * 2
    assert [pixels_of(item) for item in alone.items] == [expected(seed) for seed in range(6)]
    assert set(alone.splits) == {None}
    both = open_source("both", str(write_dict(tmp_path / "both", train=8, test=4).parent))
    assert [item.split for item in both.items] == ["train"] * 8 + ["test"] * 4
    assert [pixels_of(item) for item in both.items] == [expected(s) for s in (*range(8), *range(100, 104))]


@pytest.mark.parametrize(
    ("file", "content", "part"),
    [
        ("train/state.json", None, "state.json is missing or damaged"),
        ("train/state.json", b"{", "state.json is missing or damaged"),
        ("train/state.json", b'{"_data_files": 3}', "_data_files is no list"),
        ("train/data-00001-of-00002.arrow", None, "does not exist though"),
        ("dataset_dict.json", b"[]", "dataset_dict.json is missing or damaged"),
        ("train/data-00001-of-00002.arrow", b"", "data-00001-of-00002.arrow is truncated, damaged"),
        (
            "train/data-00001-of-00002.arrow",
            b"nonsense" * 99,
            "data-00001-of-00002.arrow is truncated, damaged",
        ),
    ],
)
def test_damaged_saved_data_sets_are_refused(tmp_path, file, content, part):
    write_dict(tmp_path, train=4, test=4)
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_bytes(content)
    assert part in message(tmp_path)


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
    assert message(tmp_path / "x").startswith(f"{path} is truncated, damaged or no such table")


def test_damaged_row_group_is_bad_images(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", compression="gzip")
    start = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 60] = bytes(60)
    path.write_bytes(content)
    items = table_source(path).items
    with pytest.raises(UndecodableError):
        read_square(items[0].open, channels=3, image_size=4)
    assert pixels_of(items[5]) == expected(5)


PATHS = pa.array([{"bytes": None, "path": "pictures/a b.png"}, {"bytes": png(1), "path": "1.png"}], STRUCT)


@pytest.mark.parametrize("statistics", [True, False])
def test_paths_in_place_of_images(tmp_path, write_images, statistics):
    write_images(tmp_path, "pictures/a b.png")
    pq.write_table(pa.table({"image": PATHS}), tmp_path / "x.parquet", write_statistics=statistics)
    source = table_source(tmp_path)
    assert pixels_of(source.items[0]) == Image.open(tmp_path / "pictures" / "a b.png").tobytes()
    assert pixels_of(source.items[1]) == expected(1)
    os.utime(tmp_path / "pictures" / "a b.png", ns=(0, 1))
    assert table_source(tmp_path).identity != source.identity


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("path", ["gone.png", "../out.png", "{outside}", "link.png", "."])
def test_paths_that_lead_out_or_nowhere_are_refused(tmp_path, write_images, path, statistics):
    write_images(tmp_path, "out.png")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "link.png").symlink_to(tmp_path / "out.png")
    given = path.format(outside=tmp_path / "out.png")
    value = pa.array([{"bytes": None, "path": given}], STRUCT)
    pq.write_table(pa.table({"image": value}), tmp_path / "x" / "1.parquet", write_statistics=statistics)
    assert f"has the path {given} in place of an image, which is no file in" in message(tmp_path / "x")


def test_a_lone_file_of_paths_is_refused(tmp_path):
    pq.write_table(pa.table({"image": PATHS}), tmp_path / "x.parquet")
    assert message(tmp_path / "x.parquet").endswith("give the folder of both")


def test_rows_without_an_image_are_bad_images(tmp_path):
    values = pa.array([None, {"bytes": None, "path": None}, {"bytes": png(2), "path": None}], STRUCT)
    items = table_source(table_of(tmp_path / "x.parquet", image=values)).items
    for item in items[:2]:
        with pytest.raises(OSError, match="no image"):
            item.open()
    assert pixels_of(items[2]) == expected(2)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_items_open_in_other_processes(tmp_path, kind, start):
    place = write_stream(tmp_path / "x") if kind == "arrow" else write_parquet(tmp_path / "1.parquet")
    items = [*table_source(place).items]
    assert [pixels_of(item) for item in items] == [expected(seed) for seed in range(6)]
    assert max(len(pickle.dumps(item)) for item in items) < 600
    with ProcessPoolExecutor(2, mp_context=get_context(start)) as processes:
        assert [*processes.map(pixels_of, items)] == [expected(seed) for seed in range(6)]


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_threads_open_at_once(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(rows, "_CACHED_BYTES", 1000)  # so that row groups come and go
    place = write_stream(tmp_path / "x", 40) if kind == "arrow" else write_parquet(tmp_path / "1.parquet", 40)
    order = np.random.default_rng(0).integers(0, 40, 400).tolist()
    items = table_source(place).items
    with ThreadPoolExecutor(8) as threads:
        assert [*threads.map(pixels_of, (items[n] for n in order))] == [expected(n) for n in order]


def test_decoded_row_groups_stay_within_their_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "_CACHED_BYTES", 3000)
    monkeypatch.setattr(rows, "_cached", {})
    for item in table_source(write_parquet(tmp_path / "x.parquet", 40)).items:
        item.open()
        assert sum(group.nbytes for group in rows._cached.values()) <= 3000
    assert len(rows._cached) > 1


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_table_that_was_written_anew_is_read_anew(tmp_path, kind):
    def write(first: int) -> None:
        if kind == "parquet":
            write_parquet(tmp_path / "x" / "x.parquet", 6, first)
        else:
            write_stream(tmp_path / "x", 6, first)
        for number, file in enumerate((tmp_path / "x").iterdir()):
            os.utime(file, ns=(0, first * 1000 + number))

    for first in (0, 50):
        write(first)
        opened = [np.asarray(item.open()) for item in table_source(tmp_path / "x").items]
        expected = [np.asarray(Image.open(io.BytesIO(png(first + n)))) for n in range(6)]
        assert all(np.array_equal(a, b) for a, b in zip(opened, expected, strict=True))


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


def test_identity_is_known_without_reading(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"no table")
    source = open_source("x.parquet", str(tmp_path))
    assert source.identity
    assert message(tmp_path / "x.parquet").startswith(f"{tmp_path / 'x.parquet'} is truncated, damaged")


def test_folders_of_images_with_descriptions_stay_folders_of_images(tmp_path, write_images):
    write_images(tmp_path, "cat/1.png")
    table_of(tmp_path / "metadata.parquet", file_name=["cat/1.png"])
    assert [item.label for item in open_source(tmp_path.name, str(tmp_path.parent)).items] == ["cat"]


def test_nothing_to_read_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"holds no table; give \.parquet files"):
        table_source(tmp_path)
    pq.write_table(pa.table({"image": structs(0)}), tmp_path / "x.parquet")
    assert "tables without rows" in message(tmp_path)


class _Counted(io.BytesIO):
    """Each read would be a request to an object store."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        return super().read(size)

    def readinto(self, buffer: bytearray) -> int:
        self.reads += 1
        return super().readinto(buffer)


def test_headers_are_read_in_blocks():
    rows = pa.table({f"column{number}": list(range(1000)) for number in range(20)})
    file = _Counted()
    pq.write_table(rows, file)
    file.reads = 0
    metadata = read_metadata(file)
    refuse_bomb(file, metadata, 0, ())
    assert 0 < file.reads < 50
