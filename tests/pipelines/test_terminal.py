"""What the terminal shows: progress lines, tables, names that must not act on it."""

import io

import pytest

from pipelines.terminal import Terminal


def test_plain_lines_tell_how_far_and_how_long(capsys, monkeypatch):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr("pipelines.terminal.time.monotonic", lambda: next(clock))
    terminal = Terminal(to_stderr=False)
    terminal.started("train_stage1", "why not")
    for done in (10, 20):
        terminal.progress(
            "train_stage1", {"done": done, "total": 100, "unit": "steps", "watched": {"loss": 1.5}}
        )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["train_stage1", "starts:", "why", "not"]
    assert "10/100 steps" in lines[1]
    assert "loss 1.5" in lines[1]
    assert lines[2].endswith("left")


@pytest.mark.parametrize("width", [30, 60, 200])
def test_a_table_is_never_cut_and_its_cells_are_harmless(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    shown = io.StringIO()
    terminal = Terminal(file=shown)
    terminal.rows(
        ("metric\x1b[2J", "one\x07", "another"), [("a", "0.123456\x1b[31m", "1\nerror: x"), ("b", "2", "3")]
    )
    text = shown.getvalue()
    for cell in ("metric\\x1b[2J", "one\\x07", "0.123456\\x1b[31m", "1\\nerror: x"):
        assert cell in text
    assert "\x1b[31m" not in text.replace("\\x1b[31m", "")
    assert "\x07" not in text


def test_a_bad_image_is_named_on_the_screen(capsys):
    Terminal(to_stderr=False).rejected([{"source": f"{i}.png", "reason": "torn"} for i in range(7)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "left out: 0.png: torn"
    assert len(lines) == 6
    assert "2 more" in lines[-1]


@pytest.mark.parametrize("live", [False, True], ids=["lines", "terminal"])
def test_names_do_not_act_on_a_terminal(monkeypatch, capsys, live):
    if live:
        monkeypatch.setenv("FORCE_COLOR", "1")
    terminal = Terminal()
    assert terminal.live == live
    named = "\x1b]0;title\x07 [/bold] :smile: \x9b2J \u202etxt"
    terminal.rejected([{"source": named, "reason": named}])
    terminal.rows(("stage", "status", "why"), [("sample", "failed", named)])
    out = capsys.readouterr().out
    assert out.count("\\x1b]0;title\\x07 [/bold] :smile: \\x9b2J \\u202etxt") == 3
    assert "\x1b]" not in out
    assert not any(sign in out for sign in "\x07\x9b\u202e")
