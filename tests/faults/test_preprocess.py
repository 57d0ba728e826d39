"""Preprocessing that is killed resumes with the shards that are missing."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.many_images import overrides, write_many_images
from tests.support.running import ROOT, command

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_killed_preprocessing_goes_on_with_the_missing_shards(pipeline, tmp_path):
    images = write_many_images(tmp_path / "images")
    arguments = ["--pipeline", "digits", "--workdir", str(tmp_path / "runs"), "--until", "preprocess"]
    arguments += ["--set", f"data.in={images}", *overrides()]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command(*arguments), stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
        )
    deadline = time.monotonic() + 200
    while not (parts := list(tmp_path.glob("runs/checkpoints/preprocess/*/images/.parts/[!.]*.parquet"))):
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    first = parts[0].parents[1] / parts[0].name.removesuffix(".parquet")
    written = first.stat().st_mtime_ns
    result = pipeline(*arguments, "--json")
    assert result.code == 0, result.err
    stage = result.json["stages"][0]
    assert (stage["name"], stage["status"]) == ("preprocess", "resumed")
    found = Path(stage["artifact"]) / "images"
    assert (found / first.name).stat().st_mtime_ns == written
    assert not list(tmp_path.glob("runs/checkpoints/preprocess/*/images"))
