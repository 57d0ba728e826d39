"""Scratch files go with the process that made them, or with the next one."""

import subprocess
import sys
from pathlib import Path

from data.sources.scratch import write_scratch


def test_scratch_goes_with_the_process_that_made_it(tmp_path):
    code = (
        "import os, sys; from data.sources.scratch import write_scratch\n"
        "write_scratch(lambda file: file.write(b'1'), sys.argv[1])\n"
        "assert len(os.listdir(sys.argv[1])) == 1\n"
        "if sys.argv[2] == 'killed': os.kill(os.getpid(), 9)\n"
    )
    for end, left in (("ends", 0), ("killed", 1), ("ends", 0)):
        subprocess.run([sys.executable, "-c", code, tmp_path, end], check=False)
        assert len([*tmp_path.iterdir()]) == left, end


def test_scratch_in_use_is_left_alone(tmp_path):
    first = write_scratch(lambda file: file.write(b"1"), str(tmp_path))
    second = write_scratch(lambda file: file.write(b"2"), str(tmp_path))
    assert [Path(path).read_bytes() for path in (first, second)] == [b"1", b"2"]
