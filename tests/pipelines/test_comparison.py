"""How runs are grouped, titled and refused in a comparison."""

import pytest

from pipelines.comparison import compared, grouped, protocol_differences, titles
from tests.support.past_runs import past_run


def test_setting_that_only_some_runs_know_tells_them_apart():
    groups = grouped([past_run("a", seed="0"), past_run("b", seed="1"), past_run("c", new="x")])
    assert [[run.run_id for run in group] for group in groups] == [["a", "b"], ["c"]]
    assert titles(groups, {"new": [None, "x"]}) == ["new not set", "new=x"]


@pytest.mark.parametrize(
    ("first", "second", "keys"),
    [
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": [1, 2]}, {"a": [1, 2]}, []),
        ({"a": [1, 2]}, {"a": [2, 1]}, ["a"]),
        ({"a": 1, "b": "x"}, {"a": 2, "b": "y"}, ["a", "b"]),
        ({"a": 1}, {}, ["a"]),
        ({"a": None}, {}, []),
        ({"a": 1}, None, []),
    ],
    ids=["equal-numbers", "equal-lists", "order", "two-keys", "key-absent", "null", "metric-absent"],
)
def test_protocol_differences(first, second, keys):
    assert list(protocol_differences("fid", [past_run("r1", first), past_run("r2", second)])) == keys


def test_every_distinct_value_is_told_with_one_run_of_it():
    runs = [past_run(f"id{index}", {"eps": eps}, x=str(index)) for index, eps in enumerate((1, 2, 1, None))]
    [line] = compared(runs).errors()
    assert "eps is 1 in run id0 (id0), 2 in run id1 (id1) and not set in run id3 (id3); " in line
