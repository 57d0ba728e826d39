"""Preprocessing over Ray: many tasks write the shards that one process would."""

from pathlib import Path

import pytest

from data.build import build
from data.part import Job
from data.sources.base import folder_source
from pipelines.fingerprint import PACKAGES
from tests.support.many_images import overrides, write_many_images

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def _shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_stages_run_the_commands_own_code_and_write_the_shards_of_one_process(pipeline, tmp_path):
    """The command is given in a folder with packages of the same names, where its relative paths start."""
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise RuntimeError('of another checkout')\n")
    images = write_many_images(tmp_path / "IMAGES")
    words = ["--pipeline", "digits", "--workdir", "runs", "--set", "data.in=IMAGES", *overrides()]
    result = pipeline(*words, "--until", "preprocess", "--json", cwd=tmp_path)
    assert result.code == 0, result.err
    stage = result.json["stages"][0]
    assert stage["status"] == "ran"
    build(folder_source(images), tmp_path / "alone", Job(3, 64, 0, 0.2, 0.01, encoding="webp", shard_mb=0.2))
    assert _shards(tmp_path / stage["artifact"] / "images") == _shards(tmp_path / "alone")
