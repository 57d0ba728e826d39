"""Hostile Arrow streams: offsets beyond the buffer, compression, pickled types."""

import pytest

from tests.support.hostile_files import assert_refused

REFUSED = {"an Arrow value far away": "out of bounds", "a packed Arrow stream": "it is compressed"}
READ = {"a pickled type": "4 images: " + "; ".join(f"type.parquet/{row} ({row % 2})" for row in range(4))}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_words(hostile_sources, name):
    assert_refused(hostile_sources[name], REFUSED[name])


@pytest.mark.parametrize("name", READ)
def test_read_without_what_would_harm(hostile_sources, name):
    assert hostile_sources[name].said == READ[name]
