"""A real cluster: `ray start`, an object store, tracking on PostgreSQL; a worker and then the driver die."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import pytest
from mlflow import MlflowClient
from PIL import Image

from pipelines.fingerprint import PACKAGES
from tests.support.planted import SECRET_KEY
from tests.support.running import ROOT, reduced_arguments
from tests.support.servers import (
    MlflowServer,
    bucket_of,
    free_port,
    no_postgres,
    postgres,
    s3_environment,
    wait_until,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(3000),
]

STEPS = 300
CHANGES = {
    "compute__num_workers": 2,
    "compute__max_restarts": 0,
    "data__shard_mb": 1,
    "evaluate__stage1": "false",
    "stage1__steps": 6,
    "stage2__steps": STEPS,
    "stage2__checkpoint_every": 20,
    "sample__num_samples": 1100,
    "sample__step_candidates": "[]",
    "sample__steps": 3,
}
WORKDIR = "s3://lab/cluster"
_DATABASE = "postgresql+psycopg2://lab:lab@127.0.0.1:{port}/postgres"


# Another machine has no such folder: nothing is imported from there, though Ray names it to its workers.
_HIDE = """
import sys

class Empty:
    def find_spec(self, name, target=None):
        return None

def hide(path):
    if not path.startswith({folder!r}):
        raise ImportError
    return Empty()

sys.path_hooks.insert(0, hide)
"""


class Nodes:
    """Nodes started as people start them; each has a cache of its own, and none sees the driver's folder."""

    def __init__(self, folder: Path, server: int) -> None:
        self.folder, self.server, self.port = folder, server, free_port()
        self.started: list[subprocess.Popen[bytes]] = []
        (folder / "node").mkdir()
        (folder / "node" / "sitecustomize.py").write_text(_HIDE.format(folder=str(folder / "job")))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, name: str, *arguments: str, cpus: int = 1, cache: Path | None = None) -> None:
        """It has credentials, as every machine must; where the store is it learns from the run."""
        environment = {**os.environ, **s3_environment(self.server, cache or self.folder / name)}
        environment |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        environment["PYTHONPATH"] = str(self.folder / "node")
        del environment["AWS_ENDPOINT_URL"]
        ports = ("dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export", "runtime-env-agent")
        words = [word for port in ports for word in (f"--{port}-port", str(free_port()))]
        words += ["--min-worker-port", "0", "--max-worker-port", "0", "--num-cpus", str(cpus), "--block"]
        ray, log = str(Path(sys.executable).with_name("ray")), self.folder / f"{name}.log"
        command = [ray, "start", "--node-ip-address", "127.0.0.1", *words, *arguments]
        for _ in range(3):  # Ray gives a node 30 seconds, which a busy machine may not keep
            if self._is_up(command, environment, log):
                return
        raise AssertionError(log.read_text())

    def _is_up(self, command: list[str], environment: dict[str, str], log: Path) -> bool:
        with log.open("wb") as file:
            node = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=file, stderr=subprocess.STDOUT
            )
        self.started.append(node)
        wait_until(lambda: node.poll() is not None or "Ray runtime started" in log.read_text(), 300)
        if node.poll() is not None:
            self.started.remove(node)
        return node in self.started

    def processes(self) -> list[psutil.Process]:
        """Of all nodes, whatever they have started."""
        alive = [psutil.Process(node.pid) for node in self.started if node.poll() is None]
        return [process for node in alive for process in (node, *node.children(recursive=True))]

    def stop(self) -> None:
        processes = self.processes()
        for node in self.started:
            node.terminate()
        _, left = psutil.wait_procs(processes, timeout=30)
        for process in left:
            process.kill()
        for node in self.started:
            node.wait(30)


@contextmanager
def nodes_of(folder: Path, server: int) -> Iterator[Nodes]:
    """A head and another node, with a temporary folder of their own."""
    nodes = Nodes(folder, server)
    with TemporaryDirectory(prefix="nodes-", dir="/tmp") as short:  # sockets' paths are limited
        own = ("--dashboard-port", str(free_port()), "--ray-client-server-port", str(free_port()))
        try:
            nodes.start("head", "--head", "--port", str(nodes.port), "--temp-dir", short, *own)
            nodes.start("second", "--address", nodes.address)
            yield nodes
        finally:
            nodes.stop()


def _paint(folder: Path) -> None:
    """More images than are prepared without help."""
    rng = np.random.default_rng(0)
    for label in range(4):
        (folder / str(label)).mkdir(parents=True)
        for index in range(510):
            grey = np.clip(60 * label + rng.normal(0, 30, (8, 8)), 0, 255).astype(np.uint8)
            Image.fromarray(grey).save(folder / str(label) / f"{index}.png")


def _copy(folder: Path) -> Path:
    """The project in a place of its own, whose stages say from which file they were run."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "pipelines" / "execute.py"
    text = file.read_text()
    assert '"part": node.part,' in text
    file.write_text(text.replace('"part": node.part,', '"part": node.part, "made_by": __file__,'))
    return folder


class Job:
    """One command, given again and again."""

    def __init__(self, folder: Path, nodes: Nodes, tracking: str) -> None:
        _paint(folder / "images")
        self.code, self.nodes, self.folder, self.count = _copy(folder / "job"), nodes, folder, 0
        self.bucket = bucket_of(nodes.server)
        words = reduced_arguments(WORKDIR, **CHANGES, data__in=folder / "images")
        words += ["--ray-address", nodes.address, "--tracking-uri", tracking, "--until", "sample", "--json"]
        self.command = [sys.executable, "pipelines/run.py", *words]

    def start(self, *more: str) -> "subprocess.Popen[bytes]":
        self.count += 1
        environment = {**os.environ, **s3_environment(self.nodes.server, self.folder / "driver")}
        environment["RAY_AUTH_MODE"] = "disabled"
        with self.log.open("wb") as log, self.log.with_suffix(".out").open("wb") as out:
            return subprocess.Popen(
                [*self.command, *more], cwd=self.code, env=environment, stdout=out, stderr=log
            )

    @property
    def log(self) -> Path:
        return self.folder / f"run{self.count}.log"

    @property
    def result(self) -> dict:
        return json.loads(self.log.with_suffix(".out").read_text().strip().splitlines()[-1])

    def wait(self, process: "subprocess.Popen[bytes]") -> int:
        return process.wait(timeout=1200)

    def sent(self) -> int:
        """The newest checkpoint of stage 2 on the object store."""
        notes = [
            n for n in self.names() if n.startswith("checkpoints/train_stage2/") and n.endswith(".sent.json")
        ]
        return max(
            (int(name.split("step_")[1].split(".")[0]) for name in notes if "step_" in name), default=0
        )

    def names(self) -> list[str]:
        from pyarrow import fs

        place = WORKDIR.removeprefix("s3://")
        found = self.bucket.get_file_info(fs.FileSelector(place, recursive=True, allow_not_found=True))
        return [info.path.removeprefix(f"{place}/") for info in found if info.type == fs.FileType.File]

    def read(self, name: str) -> bytes:
        with self.bucket.open_input_stream(f"{WORKDIR.removeprefix('s3://')}/{name}") as file:
            return bytes(file.read())

    def wait_for_step(self, step: int, process: "subprocess.Popen[bytes]") -> None:
        wait_until(lambda: process.poll() is not None or self.sent() >= step, 1200)
        assert process.poll() is None, self.log.read_text()

    def statuses(self) -> dict[str, str]:
        return {stage["name"]: stage["status"] for stage in self.result["stages"]}


@pytest.fixture(scope="module")
def job(server, tmp_path_factory) -> Iterator[Job]:
    folder = tmp_path_factory.mktemp("cluster")
    if reason := no_postgres():
        pytest.skip(reason)
    with ExitStack() as stack:
        database = _DATABASE.format(port=stack.enter_context(postgres()))
        tracking = stack.enter_context(MlflowServer(folder, database))
        yield Job(folder, stack.enter_context(nodes_of(folder, server)), tracking.uri)


def _kill_a_worker(nodes: Nodes) -> None:
    """Of the node that is not the head."""
    (_, second) = nodes.started
    family = psutil.Process(second.pid).children(recursive=True)
    workers = [member for member in family if "RayTrainWorker" in " ".join(member.cmdline())]
    assert len(workers) == 1, [member.cmdline() for member in family]
    workers[0].kill()


def test_failed_stage_and_dead_driver_are_gone_on_from_on_the_cluster(job):
    first = job.start()
    job.wait_for_step(40, first)
    _kill_a_worker(job.nodes)
    assert job.wait(first) == 1, job.log.read_text()
    assert job.statuses()["train_stage2"] == "failed"
    (line,) = [line for line in job.log.read_text().splitlines() if line.startswith("error: train_stage2: ")]
    assert "to go on: python pipelines/run.py" in line
    failed_at = job.sent()

    second = job.start()
    job.wait_for_step(failed_at + 40, second)
    second.send_signal(signal.SIGKILL)
    assert job.wait(second) == -signal.SIGKILL
    time.sleep(5)  # its workers notice within seconds and end

    assert job.wait(job.start()) == 0, job.log.read_text()
    assert "Traceback" not in job.log.read_text()
    expected = {"preprocess": "cached", "train_stage1": "cached", "train_stage2": "resumed", "sample": "ran"}
    assert expected.items() <= job.statuses().items()
    _check_tracking(job)
    _check_places(job)


def test_node_that_cannot_do_its_part_is_named_before_any_work(job):
    job.nodes.start("third", "--address", job.nodes.address, cpus=0, cache=Path("/proc/nowhere"))
    assert job.wait(job.start("--force", "sample")) == 2, job.log.read_text()
    (line,) = [line for line in job.log.read_text().splitlines() if line.startswith("error:")]
    assert re.match(r"error: ATJEM_CACHE: /proc/nowhere/\w+, on node .+; not writable", line)
    assert job.result["status"] == "refused"


def _check_tracking(job: Job) -> None:
    """One run, in which all three calls went on; every point once."""
    client = MlflowClient(job.command[job.command.index("--tracking-uri") + 1])
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id], "")
    assert {run.info.status for run in runs} == {"FINISHED"}
    (parent,) = [run for run in runs if run.data.tags.get("atjem.kind") == "pipeline"]
    assert parent.info.run_id == job.result["run_id"]
    (stage2,) = [run for run in runs if run.data.tags.get("atjem.stage") == "train_stage2"]
    steps = [point.step for point in client.get_metric_history(stage2.info.run_id, "loss")]
    assert steps == list(range(5, STEPS + 1, 5))


def _check_places(job: Job) -> None:
    """Artifacts lie in the store, made by code that was shipped; both nodes worked; no secret was written."""
    names = job.names()
    manifests = [json.loads(job.read(name)) for name in names if name.endswith("/manifest.json")]
    assert {m["stage"] for m in manifests} >= {"preprocess", "train_stage1", "train_stage2", "sample"}
    assert all("runtime_resources" in manifest["made_by"] for manifest in manifests)
    for node in ("head", "second"):
        assert list((job.folder / node).glob("*/artifacts/preprocess/*/images/train-00001.tar"))
    assert not list((job.folder / "driver").glob("*/artifacts/sample/*"))
    assert (
        len([name for name in names if name.endswith(".tar") and name.startswith("artifacts/sample/")]) == 3
    )
    assert not [name for name in names if ".ray_train" in name or name.startswith("checkpoints/sample")]
    assert not any(SECRET_KEY.encode() in job.read(name) for name in names)
    texts = [path for path in job.folder.rglob("*") if path.is_file() and path.suffix != ".tar"]
    assert not any(SECRET_KEY.encode() in path.read_bytes() for path in texts)
