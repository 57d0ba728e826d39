"""Parquet files that would take far more memory than they have bytes, told by their headers."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.parquet_guard import read_metadata, refuse_bomb
from tests.support.hostile import Answer, ask_each
from tests.support.hostile_files import ASK_PREPARED, MEGABYTES, assert_refused, write_prepared

REFUSED = {
    "rows without end": "said to have 1,000,000,000,000 rows",
    "two million rows in a kilobyte": "said to have 2,000,000 rows",
    "a nested schema": "50000 levels deep",
}
UNDECODABLE = {
    "one value in every row": "undecodable: image unpacks to 620,",
    "pages of zeros": "undecodable: image unpacks to 536,",
}
PREPARED = {
    "rows without end": "OSError: it is said to have 1,000,000,000,000 rows",
    "one value in every row": "OSError: key unpacks to 620,",
    "a nested schema": "OSError: its schema is 50000 levels deep",
    "a deep description": "dataset.json describes no shards",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_words(hostile_sources, name):
    assert_refused(hostile_sources[name], REFUSED[name])


@pytest.mark.parametrize("name", UNDECODABLE)
def test_bombs_are_bad_images(hostile_sources, name):
    assert UNDECODABLE[name] in hostile_sources[name].said
    assert hostile_sources[name].megabytes < MEGABYTES


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    return ask_each(ASK_PREPARED, write_prepared(tmp_path_factory.mktemp("prepared")))


@pytest.mark.slow
@pytest.mark.parametrize("name", PREPARED)
def test_prepared_shards_from_elsewhere_are_checked_in_bounds(prepared, name):
    assert PREPARED[name] in prepared[name].said
    assert prepared[name].megabytes < MEGABYTES


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
