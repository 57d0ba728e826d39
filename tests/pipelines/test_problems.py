"""A problem is one line without secrets."""

from pipelines.problems import Problem


def test_long_values_are_cut_after_secrets_are_hidden():
    line = str(Problem("data.in", "s3://user:" + "planted" * 1000 + "@bucket " + "x" * 5000, "give less"))
    assert "planted" not in line
    assert len(line) < 1200


def test_problem_is_one_line_without_secrets():
    line = str(Problem("--tracking-uri", "http://me:pass@host/?token=abc", "two\nlines"))
    assert line == "error: --tracking-uri: http://***@host/?token=***; two lines"
