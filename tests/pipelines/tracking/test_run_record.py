"""What is, and what is not, the record of a run."""

import json

import pytest

from pipelines.tracking.run_record import read_record


def _record(**changed: object) -> str:
    own = {"recipe": "digits", "settings": {}, "code": {}, "libraries": {}, "smoke": False}
    return json.dumps(own | {"git.commit": "0" * 40} | changed)


def test_what_is_a_record():
    for commit in ("unknown", "0" * 40, f"{'a1' * 20}+changes"):
        assert read_record(_record(**{"git.commit": commit})) is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"recipe": "digits"}',
        "[" * 100_000,
        _record(recipe="../digits"),
        _record(**{"git.commit": "--output=x"}),
    ],
    ids=["empty", "list", "cut", "little", "deep", "path", "option"],
)
def test_what_is_no_record(text):
    assert read_record(text) is None
