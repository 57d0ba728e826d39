"""Images of a table's rows: paths in their place, damage, memory, threads and other processes."""

import os
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.decode import UndecodableError, read_square
from data.sources import rows
from data.sources.tables import table_source
from tests.support.data_files import message_of, picture, pixels_of, shown
from tests.support.tables import STRUCT, table_of, write_parquet, write_stream


def test_damaged_row_group_is_bad_images(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", compression="gzip")
    start = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 60] = bytes(60)
    path.write_bytes(content)
    items = table_source(path).items
    with pytest.raises(UndecodableError):
        read_square(items[0].open, channels=3, image_size=4)
    assert pixels_of(items[5]) == shown(picture(5))


PATHS = pa.array(
    [{"bytes": None, "path": "pictures/a b.png"}, {"bytes": picture(1), "path": "1.png"}], STRUCT
)


@pytest.mark.parametrize("statistics", [True, False])
def test_paths_in_place_of_images(tmp_path, write_images, statistics):
    write_images(tmp_path, "pictures/a b.png")
    pq.write_table(pa.table({"image": PATHS}), tmp_path / "x.parquet", write_statistics=statistics)
    source = table_source(tmp_path)
    assert pixels_of(source.items[0]) == Image.open(tmp_path / "pictures" / "a b.png").tobytes()
    assert pixels_of(source.items[1]) == shown(picture(1))
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
    assert f"has the path {given} in place of an image, which is no file in" in message_of(
        table_source, tmp_path / "x"
    )


def test_rows_without_an_image_are_bad_images(tmp_path):
    values = pa.array([None, {"bytes": None, "path": None}, {"bytes": picture(2), "path": None}], STRUCT)
    items = table_source(table_of(tmp_path / "x.parquet", image=values)).items
    for item in items[:2]:
        with pytest.raises(OSError, match="no image"):
            item.open()
    assert pixels_of(items[2]) == shown(picture(2))


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_items_open_in_other_processes(tmp_path, start):
    places = write_stream(tmp_path / "x"), write_parquet(tmp_path / "1.parquet")
    items = [item for place in places for item in table_source(place).items]
    assert [pixels_of(item) for item in items] == [shown(picture(seed)) for seed in range(6)] * 2
    assert max(len(pickle.dumps(item)) for item in items) < 600
    with ProcessPoolExecutor(1, mp_context=get_context(start)) as processes:
        assert [*processes.map(pixels_of, items)] == [shown(picture(seed)) for seed in range(6)] * 2


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_threads_open_at_once(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(rows, "_CACHED_BYTES", 1000)  # so that row groups come and go
    place = write_stream(tmp_path / "x", 40) if kind == "arrow" else write_parquet(tmp_path / "1.parquet", 40)
    order = np.random.default_rng(0).integers(0, 40, 400).tolist()
    items = table_source(place).items
    with ThreadPoolExecutor(8) as threads:
        assert [*threads.map(pixels_of, (items[n] for n in order))] == [shown(picture(n)) for n in order]


def test_decoded_row_groups_stay_within_their_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "_CACHED_BYTES", 3000)
    monkeypatch.setattr(rows, "_cached", {})
    for item in table_source(write_parquet(tmp_path / "x.parquet", 40)).items:
        item.open()
        assert sum(group.nbytes for group in rows._cached.values()) <= 3000
    assert len(rows._cached) > 1


@pytest.mark.parametrize("write", [write_parquet, write_stream])
def test_a_table_that_was_written_anew_is_read_anew(tmp_path, write):
    for first in (0, 50):
        place = write(tmp_path / "x.parquet", 6, first)
        for number, file in enumerate(place.iterdir() if place.is_dir() else [place]):
            os.utime(file, ns=(0, first * 1000 + number))
        opened = [pixels_of(item) for item in table_source(place).items]
        assert opened == [shown(picture(first + n)) for n in range(6)]
