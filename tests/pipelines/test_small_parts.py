"""Redaction, the workdir's lock, stop requests, plain progress lines."""

import io
import os
import signal
import subprocess
import sys

import pytest

from data.redact import redact
from pipelines.interrupt import StopRequest
from pipelines.terminal import Terminal
from pipelines.workdir.lock import holder, locked


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://user:planted@host/db",
        "postgresql://user:p@planted/w0rd@localhost/db",
        "http://u:a/planted@h",
        "https://host/?token=planted&x=1",
        "https://host/x?sig=planted",
        "https://host/x?X-Amz-Credential=planted",
        "https://host/#access_token=planted",
        "s3://key:planted@bucket/a b",
    ],
)
def test_secrets_are_hidden(text):
    assert "planted" not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text", ["stage1.optimizer.lr=0.1", "mail me@host", "http://host/path?page=2", "a: b@c"]
)
def test_ordinary_text_stays(text):
    assert redact(text) == text


def test_lock_is_held_by_one_and_freed_at_the_end(tmp_path):
    assert holder(tmp_path) is None
    with locked(tmp_path, print, lambda: True) as first:
        assert first
        assert holder(tmp_path) == str(os.getpid())
        waited: list[str] = []
        with locked(tmp_path, waited.append, lambda: True) as second:
            assert not second
        assert waited == [str(os.getpid())]
    assert holder(tmp_path) is None


def test_lock_of_a_killed_process_is_free(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from pipelines.workdir.lock import locked\n"
        f"with locked(Path({str(tmp_path)!r}), print, lambda: True):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert holder(tmp_path) == str(process.pid)
    process.kill()
    process.wait()
    assert holder(tmp_path) is None


def test_stop_requests_are_counted_and_handlers_restored():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.count == 2
    assert signal.getsignal(signal.SIGTERM) == before


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
