"""The Python of data/README.md runs, and each kind of file that it lists is one that counts as an image."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

import data
from data.sources.base import IMAGE_SUFFIXES

README = (Path(data.__file__).parent / "README.md").read_text(encoding="utf-8")


def test_python_runs(tmp_path, run_python):
    rng = np.random.default_rng(0)
    for number in range(100):
        file = tmp_path / "in" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file)
    shards = tmp_path / "out"
    assert (
        run_python("-m", "data.prepare", tmp_path / "in", "--out", shards, "--image-size", 32).returncode == 0
    )
    (code,) = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    code = code.replace('"SHARDS"', repr(str(shards))) + "\nprint(x.shape, x.dtype, y.shape)"
    done = run_python("-c", code)
    assert done.stdout.strip() == "torch.Size([64, 3, 32, 32]) torch.uint8 torch.Size([64])", done.stderr


def test_suffixes_are_those_that_count():
    listed = re.search(
        r"files that end in (.*?) count as images|files that end in (.*?)\ncount", README, re.DOTALL
    )
    assert set(re.findall(r"\.[a-z0-9]+", listed[0])) == IMAGE_SUFFIXES
