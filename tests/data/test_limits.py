"""Compressed files that unpack to hundreds of megabytes."""

import pytest

from tests.support.hostile_files import MEGABYTES, assert_refused

REFUSED = {"a packed tar": "as a decompression bomb does", "packed idx": "as a decompression bomb does"}
UNDECODABLE = {"a zip's member": "cat/2.png undecodable: said to have 419,430,400 bytes"}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_words(hostile_sources, name):
    assert_refused(hostile_sources[name], REFUSED[name])


@pytest.mark.parametrize("name", UNDECODABLE)
def test_bombs_are_bad_images(hostile_sources, name):
    assert UNDECODABLE[name] in hostile_sources[name].said
    assert hostile_sources[name].megabytes < MEGABYTES
