"""A real MLflow server that dies, stays away, comes back, or loses its connections while a run logs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from pipelines.tracking.courier import Courier
from pipelines.tracking.delivery import Server
from pipelines.tracking.outbox import outbox_folders
from tests.support.publisher import Screen, begin, logged_steps, never, send_points
from tests.support.running import ROOT, run_python
from tests.support.servers import MlflowServer, empty_database, proxy_of, wait_until

pytestmark = pytest.mark.slow

DELIVER = ("-m", "pipelines", "deliver")
# A driver that ends in the middle: what it had to tell stays behind.
DYING = """
import os, signal, sys, time
from pathlib import Path
from pipelines.tracking.courier import Courier
from pipelines.tracking.delivery import Server

workdir, uri = Path(sys.argv[1]), sys.argv[2]
courier = Courier(Server(workdir, uri), "dying", lambda text, style=None: None)
run = courier.open(courier.tracker.open_parent, "fingerprint", "recipe", {"seed": "1"}, {})
courier.start()
print(run, flush=True)
sys.stdin.readline()
for step in range(40):
    courier.send(courier.tracker.points, run, [{"step": step, "loss": 1.0}])
stage = courier.open(courier.tracker.open_stage, run, "sample", "f", {})
courier.send(courier.tracker.metrics, stage, {"accuracy": 0.5})
print(stage, flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path_factory.mktemp("mlflow") / "server") as server:
        yield server


def _runs(uri: str, experiment: str) -> dict[str, Run]:
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    runs = {run.data.tags.get("atjem.stage", "pipeline"): run for run in found}
    assert len(runs) == len(found)
    return runs


def _imitate(courier: Courier, parent: str, folder: Path, kill: Callable[[], object]) -> str:
    """A run's calls; the server dies in their middle. Returns what the stage's run is called."""
    send, tracker = courier.send, courier.tracker
    first = courier.open(tracker.open_stage, parent, "train_stage1", "f1", {})
    send(tracker.points, first, [{"step": 0, "loss": 2.0}])
    for step in range(1, 60):
        send(tracker.points, first, [{"step": step, "loss": 1 / step, "auroc": 0.5}])
        if step == 20:
            wait_until(lambda: courier.outbox.done > 5, 120)
            kill()
        time.sleep(0.01)
    wait_until(lambda: courier.away, 120)
    second = courier.open(tracker.open_stage, parent, "train_stage2", "f2", {"atjem.inputs": "f1"})
    send_points(courier, second, range(30))
    picture = folder / "curves.png"
    Image.new("RGB", (4, 4)).save(picture)
    send(tracker.image, (second, parent), picture, "curves")
    picture.unlink()
    for run in (first, second, parent):
        send(tracker.metrics, run, {"accuracy": 0.5})
        send(tracker.close, run, "done")
    return second


def _check(uri: str, experiment: str) -> None:
    """Everything that `_imitate` had to tell, once and in order."""
    runs = _runs(uri, experiment)
    assert set(runs) == {"pipeline", "train_stage1", "train_stage2"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    parent = runs["pipeline"].info.run_id
    assert runs["train_stage2"].data.tags["mlflow.parentRunId"] == parent
    first, second = (runs[name].info.run_id for name in ("train_stage1", "train_stage2"))
    assert logged_steps(uri, first) == list(range(60))
    assert logged_steps(uri, first, "auroc") == list(range(1, 60))
    assert logged_steps(uri, second) == list(range(30))
    assert all(logged_steps(uri, run, "accuracy") == [0] for run in (first, second, parent))
    client = MlflowClient(uri)
    for run in (second, parent):
        assert [file.path for file in client.list_artifacts(run, "figures")] == ["figures/curves.png"]


def test_server_that_dies_and_comes_back_gets_everything_once(mlflow, tmp_path):
    screen = Screen()
    with Courier(Server(tmp_path, mlflow.uri), "back", screen) as courier:
        stage = _imitate(courier, begin(courier), tmp_path, mlflow.kill)
        assert courier.real(stage) == stage  # training did not wait
        mlflow.start()
        assert courier.wait(never) == 0
        assert courier.real(stage) == _runs(mlflow.uri, "back")["train_stage2"].info.run_id
    _check(mlflow.uri, "back")
    gone, back = screen.lines
    assert "MLflow does not answer" in gone
    assert str(courier.outbox.folder) in gone
    assert back.startswith("MLflow answers again: ")
    assert outbox_folders(tmp_path) == []


def test_run_whose_server_never_comes_back_is_imported_into_another(mlflow, tmp_path):
    """Whole, with what the first server had got already; a second time there is nothing left to import."""
    workdir, other = tmp_path / "runs", f"sqlite:///{tmp_path / 'other.db'}"
    workdir.mkdir()
    (tmp_path / "other.db").write_bytes(empty_database())
    with Courier(Server(workdir, mlflow.uri), "never", Screen()) as courier:
        _imitate(courier, begin(courier), tmp_path, mlflow.kill)
        assert courier.wait(never, seconds=2) > 30
    refused = run_python(*DELIVER, "--workdir", str(workdir), "--json")
    assert (refused.code, refused.json["status"]) == (2, "refused")
    assert refused.err.startswith(f"error: --tracking-uri: {mlflow.uri}; no MLflow server answers there")
    moved = workdir.rename(tmp_path / "moved")  # the export stands for itself
    done = run_python(*DELIVER, "--workdir", str(moved), "--tracking-uri", other, "--json")
    assert done.code == 0, done.err
    [told] = done.json["outboxes"]
    assert (told["experiment"], told["left"], told["refused"]) == ("never", 0, 0)
    _check(other, "never")
    assert len(list(tmp_path.glob("mlartifacts/never/*/artifacts/figures/curves.png"))) == 2
    again = run_python(*DELIVER, "--workdir", str(moved), "--tracking-uri", other, "--json")
    assert (again.code, again.json["outboxes"]) == (0, [])
    mlflow.start()


def test_driver_that_is_killed_with_records_pending_is_spoken_for(mlflow, tmp_path):
    """By whoever comes next, into the runs that it had begun; they end as those of a killed driver do."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    driver = subprocess.Popen([sys.executable, "-c", DYING, str(tmp_path), mlflow.uri], cwd=ROOT, **pipes)
    parent = driver.stdout.readline().strip()
    mlflow.kill()
    driver.stdin.write("\n")
    driver.stdin.flush()
    stage = driver.stdout.readline().strip()
    assert stage.startswith("new-")
    driver.stdin.write("\n")
    driver.stdin.flush()
    assert driver.wait(60) == -signal.SIGKILL
    mlflow.start()
    done = run_python(*DELIVER, "--workdir", str(tmp_path))
    assert done.code == 0, done.err
    assert "dying: 42 records delivered" in done.out
    runs = _runs(mlflow.uri, "dying")
    assert runs["pipeline"].info.run_id == parent
    assert logged_steps(mlflow.uri, parent) == list(range(40))
    assert runs["sample"].data.metrics == {"accuracy": 0.5}
    assert runs["sample"].data.tags["mlflow.parentRunId"] == parent
    assert {run.info.status for run in runs.values()} == {"KILLED"}


def test_upload_that_is_cut_in_the_middle_is_made_whole(mlflow, tmp_path):
    file = tmp_path / "artifacts" / "report" / "f" / "report.html"
    file.parent.mkdir(parents=True)
    file.write_bytes(os.urandom(300_000))
    screen = Screen()
    with (
        proxy_of(mlflow.port) as wire,
        Courier(Server(tmp_path, f"http://127.0.0.1:{wire.port}"), "cut", screen) as courier,
    ):
        run = begin(courier)
        wire.most, wire.cuts = 100_000, 1000
        courier.send(courier.tracker.file, [run], file)
        courier.send(courier.tracker.metrics, run, {"after": 1.0})
        wait_until(lambda: wire.dropped >= 2, 120)
        assert MlflowClient(mlflow.uri).get_run(run).data.metrics == {}  # order is kept
        wire.cuts = 0
        assert courier.wait(never) == 0
    client = MlflowClient(mlflow.uri)
    assert client.get_run(run).data.metrics == {"after": 1.0}
    assert [entry.path for entry in client.list_artifacts(run)] == ["report.html"]
    copy = client.download_artifacts(run, "report.html", str(tmp_path))
    assert Path(copy).read_bytes() == file.read_bytes()
    assert len(screen.lines) == 2


def test_server_that_hangs_does_not_hold_up_what_it_is_told(mlflow, tmp_path, monkeypatch):
    """It takes connections and says nothing; what it was asked before it hung it may yet do, once."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with Courier(Server(tmp_path, mlflow.uri), "hang", Screen()) as courier:
        run = begin(courier)
        mlflow.send(signal.SIGSTOP)
        stage = courier.open(courier.tracker.open_stage, run, "sample", "f", {})
        assert stage.startswith("new-")
        send_points(courier, stage, range(20))
        time.sleep(5)
        mlflow.send(signal.SIGCONT)
        assert courier.wait(never) == 0
    runs = _runs(mlflow.uri, "hang")
    assert set(runs) == {"pipeline", "sample"}
    assert logged_steps(mlflow.uri, runs["sample"].info.run_id) == list(range(20))
