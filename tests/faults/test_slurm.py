"""deploy/slurm.sbatch on a real one-node SLURM (Debian's slurm-wlm and munge): its time limit, then on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.support.running import ROOT, reduced_arguments
from tests.support.servers import free_port, wait_until

STEPS = 600
DAEMONS = ("munged", "slurmctld", "slurmd")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(
        os.getuid() != 0 or not all(map(shutil.which, DAEMONS)),
        reason="needs slurm-wlm and munge, and root to run them",
    ),
]

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthInfo=socket={folder}/munge/socket
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/daemon.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/daemon.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus}
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """A SLURM of this machine alone, below a folder."""

    def __init__(self, folder: Path) -> None:
        self.host = os.uname().nodename.split(".")[0]
        for name in ("munge", "state", "spool"):
            (folder / name).mkdir(mode=0o755)
        key = folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        ports = {"controller": free_port(), "daemon": free_port()}
        text = CONFIGURATION.format(host=self.host, folder=folder, cpus=os.cpu_count(), **ports)
        (folder / "slurm.conf").write_text(text)
        (folder / "cgroup.conf").write_text("CgroupPlugin=autodetect\nIgnoreSystemd=yes\n")
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        words = [
            f"--{name}={folder}/munge/{name}" for name in ("socket", "pid-file", "log-file", "seed-file")
        ]
        self.processes = [
            self._start("munged", "--foreground", "--force", f"--key-file={key}", *words),
            self._start("slurmctld", "-D"),
            self._start("slurmd", "-D", "-N", self.host),
        ]

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, env=self.environment, stderr=subprocess.DEVNULL)
        time.sleep(1)
        return process

    def ask(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout.strip() or done.stderr.strip()

    def state(self, job: str) -> dict[str, str]:
        return dict(
            word.split("=", 1) for word in self.ask("scontrol", "show", "job", job).split() if "=" in word
        )

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


@pytest.fixture
def slurm(tmp_path_factory) -> Iterator[Slurm]:
    slurm = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        wait_until(lambda: slurm.ask("sinfo", "--noheader", "--format=%T") == "idle", 60)
        slurm.environment |= {"RAY_AUTH_MODE": "disabled", "RAY_HEAD_IP": "127.0.0.1"}
        slurm.environment |= {"RAY_HEAD_PORT": str(free_port()), "PATH": path_of_python()}
        yield slurm
    finally:
        slurm.ask("scancel", "--full", "--user=root")
        wait_until(lambda: not slurm.ask("squeue", "--noheader"), 120)
        slurm.stop()


def path_of_python() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def test_time_limit_ends_with_a_checkpoint_and_the_queued_job_goes_on(slurm, tmp_path):
    """Three minutes, a signal one minute before: SLURM sends it up to a minute earlier."""
    workdir, log = tmp_path / "runs", tmp_path / "log"
    changes = {"stage2__steps": STEPS, "stage2__checkpoint_every": STEPS}
    arguments = [*reduced_arguments(workdir, **changes), "--until", "train_stage2", "--json"]
    options = ["--gpus-per-node=0", "--time=3", "--signal=B:USR1@60", f"--output={log}"]
    job = slurm.ask("sbatch", "--parsable", *options, "deploy/slurm.sbatch", *arguments)
    assert job.isdigit(), job
    wait_until(lambda: slurm.state(job)["JobState"] in ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED"), 2200)
    state, text = slurm.state(job), log.read_text()
    assert state["JobState"] == "COMPLETED", text
    assert int(state["Restarts"]) >= 1
    results = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert [result["status"] for result in results] == ["interrupted"] * (len(results) - 1) + ["done"]
    rows = [row for result in results for row in result["stages"] if row["name"] == "train_stage2"]
    assert rows[-1]["status"] == "resumed"
    assert len({row["run_id"] for row in rows}) == 1
    history = MlflowClient(f"sqlite:///{workdir}/mlflow.db").get_metric_history(rows[0]["run_id"], "loss")
    steps = [point.step for point in history]
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS
