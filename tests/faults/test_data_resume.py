"""A stream resumes exactly: real processes, a real SIGKILL, one worker and two."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.running import ROOT
from tests.support.streams import write_stream_shards

WORKER = """
import hashlib, sys, time, torch
from pathlib import Path
from tests.support.streams import make_stream
torch.set_num_threads(1)
shards, augment, log = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
rank, world, first = map(int, sys.argv[4:7])
stream, labels, keys = make_stream(shards, augment, rank, world)
with log.open("a") as out:
    for step in range(first, 13):
        indices = stream.indices(step)
        pixels = stream.view(step, indices)
        digest = hashlib.sha256(pixels.contiguous().numpy().tobytes() + labels[indices].numpy().tobytes())
        out.write(f"{step} {digest.hexdigest()} {' '.join(keys[i] for i in indices)}\\n")
        out.flush()
        time.sleep(0.02)
"""


AUGMENTS = {"squares": "crop4+flip+autoaugment+cutout16", "frames": "rrc+flip"}
STEPS = 13  # as in WORKER


def start(shards: Path, augment: str, log: Path, rank: int, world: int, first: int = 0) -> subprocess.Popen:
    numbers = map(str, (rank, world, first))
    arguments = [str(shards), augment, str(log), *numbers]
    return subprocess.Popen([sys.executable, "-c", WORKER, *arguments], cwd=ROOT)


def lines(log: Path) -> dict[int, str]:
    text = log.read_text() if log.exists() else ""
    whole = text[: text.rfind("\n") + 1].splitlines()
    return {int(line.split(" ", 1)[0]): line.split(" ", 1)[1] for line in whole}


@pytest.mark.parametrize(("kind", "world"), [("squares", 1), ("frames", 2)])
def test_killed_in_the_middle_of_an_epoch(tmp_path, kind, world):
    place, augment = write_stream_shards(tmp_path, kind), AUGMENTS[kind]
    whole = [tmp_path / f"whole-{rank}" for rank in range(world)]
    killed = [tmp_path / f"killed-{rank}" for rank in range(world)]
    for process in [start(place, augment, log, rank, world) for rank, log in enumerate(whole)]:
        assert process.wait() == 0
    running = [start(place, augment, log, rank, world) for rank, log in enumerate(killed)]
    deadline = time.monotonic() + 60
    while min(len(lines(log)) for log in killed) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    for process in running:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    last = min(max(lines(log)) for log in killed)
    assert 2 <= last < STEPS - 1
    for process in [start(place, augment, log, rank, world, last + 1) for rank, log in enumerate(killed)]:
        assert process.wait() == 0
    assert [lines(log) for log in killed] == [lines(log) for log in whole]
