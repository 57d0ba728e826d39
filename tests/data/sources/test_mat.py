"""Fields of MATLAB files. Damaged and hostile files are refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from scipy.io import savemat

from data.sources.mat import read_structs


def matlab(*elements: tuple[int, bytes]) -> bytes:
    """A file of version 5."""
    header = b"MATLAB 5.0".ljust(124) + b"\x00\x01IM"
    return header + b"".join(struct.pack("<II", kind, len(content)) + content for kind, content in elements)


STRUCTS = struct.pack("<II", 6, 8) + struct.pack("<II", 2, 0)  # of class 2, and nothing else
OTHERS = io.BytesIO()
savemat(OTHERS, {"others": 1})
REFUSED = {
    "a bomb": (matlab((15, zlib.compress(bytes(80 << 20), 9))), "unpacks to more than 67,108,864 bytes"),
    "nothing": (matlab((14, STRUCTS)), "not enough values to unpack"),
    "no end": (matlab((14, STRUCTS + struct.pack("<II", 5, 1 << 31))), "it ends within an element"),
    "other variables": (OTHERS.getvalue(), "it has no structs synsets"),
    "another version": (b"MATLAB 7.3", "it is no MATLAB file of version 5"),
}


@pytest.mark.parametrize(("content", "told"), REFUSED.values(), ids=REFUSED)
def test_refused_in_words(content, told):
    """By errors that tests/data/sources/test_imagenet.py sees named with the file."""
    with pytest.raises(ValueError, match=told):
        [*read_structs(content, "synsets", ("ID", "WNID"))]


@pytest.mark.parametrize("packed", [False, True])
def test_fields_are_those_that_scipy_writes(packed):
    synsets = np.empty((2, 1), dtype=[("ID", object), ("words", object), ("WNID", object)])
    synsets[0, 0], synsets[1, 0] = (300, "naïve", "n01"), (1, "word", "n2")
    file = io.BytesIO()
    savemat(file, {"first": 1, "synsets": synsets}, do_compression=packed)
    assert [*read_structs(file.getvalue(), "synsets", ("ID", "WNID"))] == [(300, "n01"), (1, "n2")]
