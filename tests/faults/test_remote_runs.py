"""Whole runs in a workdir on an object store, from several machines: caches of their own, one server."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.support.planted import SECRET_KEY
from tests.support.running import ROOT, Result, command, reduced_arguments
from tests.support.servers import MlflowServer, bucket_of, s3_environment, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.ray]

STEPS = {"stage2__steps": 400, "stage2__checkpoint_every": 20, "evaluate__stage1": "false"}


@pytest.fixture(scope="module")
def tracking(tmp_path_factory) -> Iterator[str]:
    with MlflowServer(tmp_path_factory.mktemp("mlflow")) as server:
        yield server.uri


class Lab:
    """Machines with caches of their own, an object store and a tracking server that all of them see."""

    def __init__(self, server: int, tracking: str, folder: Path, prefix: str) -> None:
        self.server, self.folder, self.workdir = server, folder, f"s3://lab/{prefix}"
        self.tracking, self.bucket = tracking, bucket_of(server)

    def start(self, machine: str, *arguments: str, **changed: object) -> "subprocess.Popen[str]":
        words = [*reduced_arguments(self.workdir, **changed), "--tracking-uri", self.tracking, *arguments]
        return subprocess.Popen(
            command(*words, "--json"),
            env={**os.environ, **s3_environment(self.server, self.folder / machine)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, machine: str, *arguments: str, **changed: object) -> Result:
        process = self.start(machine, *arguments, **changed)
        out, err = process.communicate(timeout=800)
        result = Result(process.returncode, out, err)
        assert result.code == 0, result.err
        return result

    def read(self, name: str) -> bytes:
        with self.bucket.open_input_stream(f"{self.workdir.removeprefix('s3://')}/{name}") as file:
            return bytes(file.read())

    def cached(self, machine: str, pattern: str) -> list[Path]:
        return sorted((self.folder / machine).glob(f"*/{pattern}"))


def _statuses(result: Result) -> dict[str, str]:
    return {stage["name"]: stage["status"] for stage in result.json["stages"]}


def test_run_is_found_by_another_machine(server, tracking, tmp_path):
    """All of it is reused from an empty cache; a stage made again brings what it needs."""
    lab = Lab(server, tracking, tmp_path, "found")
    small = {"evaluate__stage1": "false"}
    first = lab.run("a", **small)
    assert set(_statuses(first).values()) == {"ran"}
    report = first.json["stages"][-1]["artifact"]
    assert report.startswith(f"{lab.workdir}/artifacts/report/")
    page = lab.read(f"{report.removeprefix(lab.workdir + '/')}/report.html")

    second = lab.run("b", **small)
    assert set(_statuses(second).values()) == {"cached"}
    assert second.json["metrics"] == first.json["metrics"]
    assert not lab.cached("b", "artifacts/*/*")
    assert f"report     {report}/report.html" in second.err
    finished = lab.run("b", "--status", **small)
    assert set(_statuses(finished).values()) == {"finished"}

    third = lab.run("b", "--force", "report", **small)
    assert _statuses(third)["report"] == "ran"
    assert lab.cached("b", "artifacts/sample/*/samples-00000.tar")
    (own,) = lab.cached("b", "artifacts/report/*/report.html")
    assert len(own.read_bytes()) > len(page) // 2
    client = MlflowClient(tracking)
    (parent, *_) = client.search_runs([_experiment(client)], "tags.`atjem.kind` = 'pipeline'")
    assert parent.data.tags["atjem.workdir"] == lab.workdir
    told = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(SECRET_KEY.encode() in path.read_bytes() for path in told)
    assert SECRET_KEY not in first.out + first.err + third.err


def _experiment(client: MlflowClient) -> str:
    return client.get_experiment_by_name("digits").experiment_id


def test_killed_training_goes_on_on_another_machine(server, tracking, tmp_path):
    """A kill in stage 2 on machine a; b, with an empty cache, ends in the weights of an uninterrupted run."""
    lab = Lab(server, tracking, tmp_path, "killed")
    killed = lab.start("a", "--until", "train_stage2", **STEPS)
    wait_until(
        lambda: killed.poll() is not None or lab.cached("a", "checkpoints/train_stage2/*/step_100"), 500
    )
    killed.kill()
    assert killed.wait() == -9, killed.communicate()
    listed = lab.run("b", "--until", "train_stage2", "--status", **STEPS)
    (stage2,) = [row for row in listed.json["stages"] if row["name"] == "train_stage2"]
    assert (stage2["status"], stage2["checkpoint_step"] >= 80) == ("unfinished", True)

    resumed = lab.run("b", "--until", "train_stage2", **STEPS)
    assert _statuses(resumed)["train_stage2"] == "resumed"
    assert _statuses(resumed)["train_stage1"] == "cached"
    artifact = resumed.json["stages"][3]["artifact"].removeprefix(f"{lab.workdir}/")
    weights = lab.read(f"{artifact}/model.safetensors")
    client = MlflowClient(tracking)
    runs = client.search_runs([_experiment(client)], "tags.`atjem.stage` = 'train_stage2'")
    (run,) = [run for run in runs if run.data.tags["mlflow.parentRunId"] == resumed.json["run_id"]]
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "loss")]
    assert steps == list(range(5, 401, 5))

    anew = lab.run("c", "--until", "train_stage2", "--force", "train_stage2", **STEPS)
    assert _statuses(anew)["train_stage2"] == "ran"
    assert lab.read(f"{artifact}/model.safetensors") == weights
