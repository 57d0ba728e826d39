"""How long it takes until training makes progress again: `python benchmarks/recovery.py` (8 minutes).

Stage 1 of the digits recipe with a checkpoint every 10 steps, on clusters of this machine. What is measured
ends with the first new checkpoint, so it holds the steps that are trained again and 10 more, about a second.
Medians of ROUNDS, and their range.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL

import psutil
from ray.cluster_utils import Cluster

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 3
SETTINGS = ("stage1.steps=100000", "stage1.checkpoint_every=10", "compute.max_restarts=1000")
ENVIRONMENT = {**os.environ, "RAY_AUTH_MODE": "disabled"}


def main() -> None:
    for name, measure in {
        "the process that trains alone is killed": lambda: worker_killed(1),
        "one of two training workers is killed": lambda: worker_killed(2),
        "the driver is killed; from the same command on": driver_killed,
        "one of two nodes is lost": node_lost,
    }.items():
        seconds = [measure() for _ in range(ROUNDS)]
        print(f"{name:<50}{statistics.median(seconds):6.1f} s   ({min(seconds):.1f} - {max(seconds):.1f})")


def worker_killed(num_workers: int) -> float:
    with running(f"compute.num_workers={num_workers}") as (driver, newest):
        wait_for(lambda: newest() >= 30)
        trainer(driver, num_workers).kill()
        return seconds_until(newest)


def driver_killed() -> float:
    with tempfile.TemporaryDirectory() as workdir:
        with running(workdir=workdir) as (driver, newest):
            wait_for(lambda: newest() >= 30)
            workers = psutil.Process(driver.pid).children(recursive=True)
            driver.kill()
            psutil.wait_procs(workers, timeout=60)
        started = time.perf_counter()
        with running(workdir=workdir) as (_, newest):
            return seconds_until(newest, started)


def node_lost() -> float:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    lost = cluster.add_node(num_cpus=1)
    try:
        with running("compute.num_workers=2", address=cluster.address) as (_, newest):
            wait_for(lambda: newest() >= 30)
            cluster.remove_node(lost, allow_graceful=False)
            return seconds_until(newest)
    finally:
        cluster.shutdown()


@contextmanager
def running(
    *changes: str, workdir: str = "", address: str = ""
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], int]]]:
    """The run's driver, and what tells the newest checkpoint's step."""
    with tempfile.TemporaryDirectory() as own:
        place = Path(workdir or own)
        command = [sys.executable, str(ROOT / "pipelines" / "run.py"), "--pipeline", "digits"]
        command += ["--until", "train_stage1", "--workdir", str(place)]
        command += [word for change in (*SETTINGS, *changes) for word in ("--set", change)]
        command += ["--ray-address", address] if address else []
        driver = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=DEVNULL, stderr=DEVNULL)
        try:
            yield driver, lambda: newest_step(place)
        finally:
            if driver.poll() is None:
                driver.send_signal(signal.SIGTERM)
            driver.wait()


def newest_step(workdir: Path) -> int:
    return max((int(path.name[5:]) for path in workdir.glob("checkpoints/train_stage1/*/step_*")), default=-1)


def trainer(driver: subprocess.Popen[bytes], num_workers: int) -> psutil.Process:
    """The last of the processes that train."""
    name = "ray::train_stag" if num_workers == 1 else "ray::RayTrainW"
    family = psutil.Process(driver.pid).children(recursive=True)
    return [member for member in family if member.name().startswith(name)][-1]


def seconds_until(newest: Callable[[], int], started: float | None = None) -> float:
    """Until there is a newer checkpoint than now."""
    started, now = started or time.perf_counter(), newest()
    wait_for(lambda: newest() > now)
    return time.perf_counter() - started


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.perf_counter() + 200
    while not happened():
        if time.perf_counter() > deadline:
            raise TimeoutError
        time.sleep(0.01)


if __name__ == "__main__":
    main()
