"""The Python of data/README.md runs, and each kind of file that it lists is one that counts as an image."""

import re
from pathlib import Path
from typing import Any

import torch

import data
from data.prepare import main
from data.sources.base import IMAGE_SUFFIXES
from tests.support.data_files import picture, write_files

README = (Path(data.__file__).parent / "README.md").read_text(encoding="utf-8")


def test_python_runs(tmp_path):
    write_files(tmp_path / "in", {f"{'ab'[n % 2]}/{n}.png": picture(n, (40, 40)) for n in range(100)})
    main(source=str(tmp_path / "in"), out=str(tmp_path / "out"), image_size=32)
    (code,) = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace('"SHARDS"', repr(str(tmp_path / "out"))), names)
    assert (names["x"].shape, names["x"].dtype) == ((64, 3, 32, 32), torch.uint8)
    assert names["y"].shape == (64,)


def test_suffixes_are_those_that_count():
    listed = re.search(
        r"files that end in (.*?) count as images|files that end in (.*?)\ncount", README, re.DOTALL
    )
    assert set(re.findall(r"\.[a-z0-9]+", listed[0])) == IMAGE_SUFFIXES
