"""docs/reliability.md and docs/security.md: every promise names its tests, and they are there."""

import re

import pytest

from tests.support.running import ROOT

PAGES = {
    name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("reliability", "security")
}
HEADS = ("what happens", "threat", "*")  # of a table, and of some of its rows
ROWS = {
    f"{name}: {row[2:40]}": row
    for name, page in PAGES.items()
    for row in page.splitlines()
    if row.startswith("| ") and not row[2:].startswith(HEADS)
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_its_tests_exist(row):
    file, named = "", re.findall(r"`([\w/.]*)::(\w+)`", row)
    assert named
    for path, name in named:
        file = path or file
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")
