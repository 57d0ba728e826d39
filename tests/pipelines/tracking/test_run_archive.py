"""Which run a name or the beginning of an id stands for."""

from dataclasses import replace

from pipelines.tracking.run_archive import matching
from tests.support.past_runs import past_run


def test_matching_prefers_the_whole_id_and_wants_four_characters():
    runs = [past_run("abcd"), past_run("abcdef"), past_run("abxy")]
    assert [run.run_id for run in matching("abcd", runs)] == ["abcd"]
    assert [run.run_id for run in matching("abcde", runs)] == ["abcdef"]
    assert matching("abx", runs) == []
    assert matching("run abxy", runs) == [runs[2]]
    assert len(matching("abcd", [past_run("abcd1"), past_run("abcd2")])) == 2


def test_of_runs_with_one_name_and_one_fingerprint_the_newest_is_meant():
    def named(run_id, fingerprint):
        return replace(past_run(run_id), name="digits", tags={"atjem.fingerprint": fingerprint})

    newest_first = [named("c" * 8, "x"), named("b" * 8, "x"), named("a" * 8, "x")]
    assert [run.run_id for run in matching("digits", newest_first)] == ["c" * 8]
    assert len(matching("digits", [*newest_first, named("d" * 8, "y")])) == 2
