"""Preprocessing that is killed resumes with the shards that are missing."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.many_images import overrides, write_many_images
from tests.support.running import ROOT, command, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_killed_preprocessing_goes_on_with_the_missing_shards(pipeline, tmp_path):
    images = write_many_images(tmp_path / "images")
    arguments = ["--pipeline", "digits", "--workdir", str(tmp_path / "runs"), "--until", "preprocess"]
    arguments += ["--set", f"data.in={images}", *overrides()]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command(*arguments), stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
        )
    parts: list[Path] = []

    def is_there() -> bool:
        parts.extend(tmp_path.glob("runs/checkpoints/preprocess/*/images/.parts/[!.]*.parquet"))
        return bool(parts)

    wait_for(is_there, process, tmp_path / "log")
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
