"""A killed or interrupted download resumes."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.sources.base import folder_source
from tests.support.origin import Origin, command, fetched, name_of, present, publish, serving, write_list
from tests.support.running import ROOT


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Origin]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        yield server


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs ignore it
    )


def begin_and_hang(origin: Origin, root: Path) -> tuple[list[str], list[str], subprocess.Popen[str]]:
    """A running download: eight images are complete, two requests hang, twelve images are missing."""
    names = [name_of(number) for number in range(22)]
    publish(origin, *names)
    for name in names[8:10]:
        origin.faults[f"/{name}.jpg"] = ["hang"]
    arguments = command(origin, root, "--list", write_list(root / "list.txt", *names), "--workers", "2")
    process = start(arguments)
    for _ in range(2):
        assert origin.hanging.acquire(timeout=60)
    parts = [root / "openimages/train" / f".{number:016x}.jpg.part" for number in (8, 9)]
    sizes = [len(origin.files[f"/{name}.jpg"]) // 2 for name in names[8:10]]
    end = time.monotonic() + 20  # before the command gives up reading, which would write what it has
    while [part.stat().st_size if part.exists() else 0 for part in parts] != sizes:
        assert time.monotonic() < end
        time.sleep(0.01)
    return names, arguments, process


def finish(origin: Origin, root: Path, names: list[str], arguments: list[str]) -> None:
    """Repeating the command completes the collection: finished files stay, partial files resume."""
    origin.release.set()
    before = present(root / "openimages")
    assert sum(path.endswith(".jpg") for path in before) == 8
    origin.log.clear()
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{root / 'openimages'}: 22 images, 14 of them fetched now\n"
    assert present(root / "openimages") == fetched(origin, *names)
    assert origin.asked() == {f"/{name}.jpg": 1 for name in names[8:]}
    halves = {f"/{name}.jpg": f"bytes={len(origin.files[f'/{name}.jpg']) // 2}-" for name in names[8:10]}
    assert {path: span for path, span in origin.log if span} == halves


def test_killed_command_goes_on(origin, tmp_path):
    names, arguments, process = begin_and_hang(origin, tmp_path)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert len(folder_source(tmp_path / "openimages").items) == 8  # parts are no images
    finish(origin, tmp_path, names, arguments)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_interrupted_command_says_so_and_goes_on(origin, tmp_path, sign):
    names, arguments, process = begin_and_hang(origin, tmp_path)
    process.send_signal(sign)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "openimages: interrupted; the same command goes on"
    assert "Traceback" not in err
    finish(origin, tmp_path, names, arguments)
