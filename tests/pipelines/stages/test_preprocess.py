"""Preprocessing over Ray: shards by many tasks, killed in the middle, the same bytes as by one process."""

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.build import SMALL, build
from data.part import Job
from data.sources.base import folder_source
from pipelines.fingerprint import PACKAGES
from tests.support.running import ROOT, command

pytestmark = [pytest.mark.slow, pytest.mark.ray]

SETTINGS = {
    "data.ood": "noise-smooth",
    "data.image_size": 64,
    "data.encoding": "webp",
    "data.shard_mb": 0.2,
    "data.test_fraction": 0.2,
    "model.channels": 3,
}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(SMALL + 200):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((80, 70)).save(path)
    return folder


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.mark.faults
def test_killed_preprocessing_goes_on_with_the_missing_shards(pipeline, images, tmp_path):
    sets = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    arguments = ["--pipeline", "digits", "--workdir", str(tmp_path / "runs"), "--until", "preprocess"]
    arguments += ["--set", f"data.in={images}", *sets]
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
    build(folder_source(images), tmp_path / "alone", Job(3, 64, 0, 0.2, 0.01, encoding="webp", shard_mb=0.2))
    assert shards(found) == shards(tmp_path / "alone")
    assert not list(tmp_path.glob("runs/checkpoints/preprocess/*/images"))


def test_stages_run_the_commands_own_code_wherever_it_is_given(pipeline, images, tmp_path):
    """From a folder with packages of the same names, another checkout say; relative paths start there."""
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise RuntimeError('of another checkout')\n")
    (tmp_path / "IMAGES").symlink_to(images)
    sets = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    words = ["--pipeline", "digits", "--workdir", "runs", "--set", "data.in=IMAGES", *sets]
    result = pipeline(*words, "--until", "preprocess", "--json", cwd=tmp_path)
    assert result.code == 0, result.err
    assert result.json["stages"][0]["status"] == "ran"
