"""Commands of the README that take minutes or need a cluster."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.readme import SMALLER, find, run
from tests.support.servers import free_port, served

pytestmark = [pytest.mark.slow, pytest.mark.ray]

OWN = {
    "model.arch": "wrn-10-1",
    "stage1.steps": 2,
    "stage2.steps": 2,
    "stage1.batch_size": 8,
    "stage2.batch_size": 8,
    "stage2.select_samples": 10,
    "compute.gpus_per_worker": 0,
    "compute.cpus_per_worker": 1,
}
CLUSTER = {"compute.num_workers": 1, "compute.gpus_per_worker": 0, "compute.cpus_per_worker": 1}


@pytest.fixture
def ray_cluster(tmp_path) -> Iterator[str]:
    """The address of a cluster that somebody else started."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}"]
    command += ["--num-cpus=2", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    environment = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    with served(command, port, tmp_path / "log", **environment):
        yield f"127.0.0.1:{port}"


def test_cluster(ray_cluster, place, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    command = find("--ray-address").replace("HOST:PORT", ray_cluster)
    done = run(f"{command} --smoke --until preprocess", place, CLUSTER)
    assert done.returncode == 0, done.stderr
    assert (place / "SHARED" / "runs" / "artifacts" / "preprocess").is_dir()


def test_search(place):
    command = find("tune_pgd.py --pipeline digits").replace("--trials 20 --seeds 3", "--trials 1 --smoke")
    done = run(command, place)
    assert done.returncode == 0, done.stderr
    assert (place / "runs" / "best.yaml").is_file()
    done = run(find("tune_pgd.py --resume").replace("digits-1", "digits-smoke-1"), place)
    assert done.returncode == 0, done.stderr
    assert "1 done" in done.stdout


def test_recipe_without_data(place):
    done = run(find("imagenet256 --smoke"), place)
    assert done.returncode == 0, done.stderr
    assert "none of these figures is a result" in done.stdout


def test_own_images(place):
    done = run(f"{find('data.in=IMAGES')} --until train_stage2", place, SMALLER | OWN)
    assert done.returncode == 0, done.stderr
