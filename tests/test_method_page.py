"""docs/method.md names code and tests that exist, and its table of networks is the code's."""

import re
from importlib import import_module

import pytest

from atjem.models.footprint import footprint
from tests.support.running import ROOT

PAGE = (ROOT / "docs" / "method.md").read_text()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:atjem|data)\.[\w.]+)`", PAGE))))
def test_code_exists(name):
    parts = name.split(".")
    try:
        found = import_module(name)
    except ModuleNotFoundError:
        found = getattr(import_module(".".join(parts[:-1])), parts[-1])
    assert found.__doc__


@pytest.mark.parametrize("file", sorted(set(re.findall(r"\b((?:tests|benchmarks)/[\w/]+\.py)", PAGE))))
def test_file_exists(file):
    assert (ROOT / file).is_file()


ROWS = re.findall(
    r"^\| ((?:wrn|resnet|convnext)\S*) \| (\S+) \| (\S+) \| (\S+) / (\S+) \|", PAGE, re.MULTILINE
)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_table_of_networks(row):
    arch, *figures = row
    small = arch.startswith("wrn-") and arch != "wrn-50-4"
    shape = {"num_classes": 10, "image_size": 32} if small else {"num_classes": 1000, "image_size": 256}
    full, half = (footprint(arch, channels=3, precision=precision, **shape) for precision in ("fp32", "bf16"))
    expected = [full.parameters / 1e6, full.flops / 1e9, full.attack / 1e6, half.attack / 1e6]
    assert [float(figure) for figure in figures] == pytest.approx(expected, rel=0.01)
