"""A cluster of several nodes (separate raylets): one of three is lost in training, later another joins."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

from pipelines.compute.channel import open_mailbox
from pipelines.compute.devices import worker_memory
from pipelines.compute.nodes import smallest_memory
from pipelines.recipe import load_recipe
from tests.support.running import ROOT, command, reduced_arguments, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.ray]

STEPS = 600


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head of one CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        yield cluster
        cluster.shutdown()


def test_mailbox_is_on_the_drivers_node(cluster):
    cluster.add_node(num_cpus=1)
    with ray.init(address=cluster.address, log_to_driver=False):
        nodes = [
            open_mailbox().__ray_call__.remote(lambda mailbox: ray.get_runtime_context().get_node_id())
            for _ in range(8)
        ]
        assert set(ray.get(nodes)) == {ray.get_runtime_context().get_node_id()}


def test_smallest_memory_is_of_nodes_that_can_bear_a_worker(cluster):
    """The head has one CPU: no worker of two runs there."""
    settings = load_recipe("digits", ["compute.cpus_per_worker=2", "compute.num_workers=2"])[0].settings
    with ray.init(address=cluster.address, log_to_driver=False):
        assert smallest_memory(settings) == worker_memory(settings), "of the only node"
        cluster.add_node(num_cpus=1)
        assert smallest_memory(settings) == 0
        cluster.add_node(num_cpus=4)
        assert smallest_memory(settings) == worker_memory(settings)


def curve_of(out: str) -> list[dict[str, float]]:
    """Of stage 2, from what a run printed."""
    stages = json.loads(out.splitlines()[-1])["stages"]
    (stage2,) = [row for row in stages if row["name"] == "train_stage2"]
    return json.loads((Path(stage2["artifact"]) / "curve.json").read_text())


def test_training_goes_on_with_the_workers_it_can_get(cluster, tmp_path):
    """The batch of 64 is shared by three, two and again three, as one worker has it."""
    lost, log, workdir = cluster.add_node(num_cpus=1), tmp_path / "log", tmp_path / "runs"
    cluster.add_node(num_cpus=1)
    changes = {"stage2__steps": STEPS, "stage2__checkpoint_every": 20}
    until = ("--until", "train_stage2", "--json", "--ray-address", cluster.address)
    arguments = [*reduced_arguments(workdir, compute__num_workers=3, **changes), *until]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    with log.open("wb") as err, (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(command(*arguments), stdout=out, stderr=err, cwd=ROOT, env=environment)

    def reached(step: int) -> bool:
        steps = [int(path.name[5:]) for path in workdir.glob("checkpoints/train_stage2/*/step_*")]
        return max(steps, default=0) >= step

    wait_for(lambda: reached(60), process, log)
    cluster.remove_node(lost, allow_graceful=False)
    wait_for(lambda: "with 2 workers in place of 3, the same global batch" in log.read_text(), process, log)
    at = max(int(path.name[5:]) for path in workdir.glob("checkpoints/train_stage2/*/step_*"))
    wait_for(lambda: reached(at + 40), process, log)
    cluster.add_node(num_cpus=1)
    more = "there is room for more workers; goes on from its last checkpoint with 3 workers"
    wait_for(lambda: more in log.read_text(), process, log)
    assert process.wait(timeout=400) == 0, log.read_text()
    curve = curve_of((tmp_path / "out").read_text())
    assert [point["step"] for point in curve] == list(range(5, STEPS + 1, 5))
    assert not re.search("Traceback", log.read_text())
    alone = [*reduced_arguments(tmp_path / "alone", **changes), *until]
    done = subprocess.run(command(*alone), cwd=ROOT, env=environment, capture_output=True, check=True)
    losses, expected = (np.array([p["loss"] for p in own]) for own in (curve, curve_of(done.stdout.decode())))
    assert np.abs(losses - expected).mean() < 0.05 * expected.mean()  # float32, chaotic after some steps


def test_run_waits_for_a_node_that_can_bear_its_workers(cluster, tmp_path):
    log, workdir = tmp_path / "log", tmp_path / "runs"
    changes = {"compute__num_workers": 2, "compute__cpus_per_worker": 2}
    arguments = [*reduced_arguments(workdir, **changes), "--until", "train_stage1"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command(*arguments, "--ray-address", cluster.address),
            stdout=file,
            stderr=file,
            cwd=ROOT,
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        )
    waits = "preprocess: waits for a node with 2 CPUs"
    wait_for(lambda: log.read_text().count(waits) == 2, process, log)
    cluster.add_node(num_cpus=4)
    assert process.wait(timeout=400) == 0, log.read_text()
