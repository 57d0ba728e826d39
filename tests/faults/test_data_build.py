"""Shards that a killed command finished are kept."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from data.build import SMALL
from data.folders import PARTS
from data.shards import DATASET_FILE
from tests.support.data_files import contents, write_images
from tests.support.running import ROOT


def test_sigkill_in_the_middle_loses_no_finished_shard(tmp_path):
    images = write_images(tmp_path / "in", *(f"a/{n}.png" for n in range(SMALL + 400)))
    arguments = ["-m", "data.prepare", images, "--image-size", "64", "--shard-mb", "0.1", "--processes", "2"]

    def command(out: Path) -> list[str]:
        return [sys.executable, *map(str, arguments), "--out", str(out)]

    process = subprocess.Popen(command(tmp_path / "out"), cwd=ROOT, start_new_session=True)
    parts = tmp_path / "out" / PARTS
    deadline = time.monotonic() + 100
    while len(list(parts.glob("[!.]*.parquet"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path.stem for path in parts.glob("[!.]*.parquet")}
    assert finished
    assert not (tmp_path / "out" / DATASET_FILE).exists()
    kept = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in finished}
    subprocess.run(command(tmp_path / "out"), cwd=ROOT, check=True)
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in finished} == kept
    subprocess.run(command(tmp_path / "whole"), cwd=ROOT, check=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
