"""What a driver tells MLflow arrives in order and once, whatever becomes of calls; on a SQLite store."""

import sqlite3

import pytest
from mlflow import MlflowClient
from PIL import Image

from pipelines.tracking.courier import Courier
from pipelines.tracking.delivery import Server, UndeliveredError
from pipelines.tracking.outbox import outbox_folders
from pipelines.tracking.run_names import RunNames
from pipelines.trial import Trial
from tests.support.publisher import begin, dies, logged_steps, never, send_points
from tests.support.servers import free_port, wait_until


@pytest.mark.slow
def test_run_that_cannot_be_opened_leaves_nothing_behind(tmp_path, screen):
    store = Server(tmp_path, f"http://127.0.0.1:{free_port()}")
    with Courier(store, "recipe", screen) as courier, pytest.raises(UndeliveredError, match="refused"):
        courier.open(courier.tracker.open_parent, "fingerprint", "recipe", {}, {})
    assert outbox_folders(tmp_path) == []


def test_everything_arrives_in_order_and_the_outbox_goes(courier, store, screen, tmp_path):
    parent = courier.open(courier.tracker.open_parent, "fingerprint", "recipe", {}, {})
    assert MlflowClient(store.uri).get_run(parent).info.status == "RUNNING"
    courier.start()
    stage = courier.open(courier.tracker.open_stage, parent, "train_stage2", "f", {"a": "b"})
    send_points(courier, stage, range(50))
    Image.new("RGB", (4, 4)).save(tmp_path / "passing.png")
    courier.send(courier.tracker.image, (stage, parent), tmp_path / "passing.png", "curves")
    (tmp_path / "passing.png").unlink()
    courier.send(courier.tracker.close, stage, "done")
    courier.send(courier.tracker.close, parent, "done")
    assert courier.wait(never) == 0
    courier.close()
    client = MlflowClient(store.uri)
    assert logged_steps(store.uri, stage) == list(range(50))
    assert client.get_run(stage).info.status == client.get_run(parent).info.status == "FINISHED"
    for run in (stage, parent):
        assert [file.path for file in client.list_artifacts(run, "figures")] == ["figures/curves.png"]
    assert outbox_folders(tmp_path) == []
    assert screen.lines == []


def test_a_record_that_mlflow_refuses_is_set_aside_and_the_rest_goes_on(courier, store, screen):
    run = begin(courier)
    for _ in range(2):
        courier.send(courier.tracker.metrics, run, {"k" * 300: 1.0})  # MLflow takes 250 characters
    courier.send(courier.tracker.tag, "0" * 32, {"a": "b"})  # no such run
    courier.send(courier.tracker.file, [run], store.workdir / "artifacts" / "gone.html")
    courier.send(courier.tracker.metrics, run, {"accuracy": 0.5})
    assert courier.wait(never) == 0
    courier.close()
    assert MlflowClient(store.uri).get_run(run).data.metrics == {"accuracy": 0.5}
    assert courier.outbox.refused == 4
    assert len(courier.outbox.refused_file.read_text().splitlines()) == 4
    assert len(screen.lines) == 3  # the same words once
    assert all(str(courier.outbox.refused_file) in line for line in screen.lines)


def test_a_run_that_is_deleted_meanwhile_stops_nothing(courier, store, screen):
    parent = begin(courier)
    stage = courier.open(courier.tracker.open_stage, parent, "sample", "f", {})
    MlflowClient(store.uri).delete_run(stage)
    send_points(courier, stage, range(3))
    courier.send(courier.tracker.close, stage, "done")
    courier.send(courier.tracker.close, parent, "done")
    assert courier.wait(never) == 0
    assert MlflowClient(store.uri).get_run(parent).info.status == "FINISHED"
    assert courier.outbox.refused == 4


def test_calls_whose_answer_was_lost_change_nothing_when_made_again(courier, store, inputs, tmp_path):
    """Every kind of call, each of them twice, as after a connection that broke between work and answer."""
    perform = courier.tracker.perform

    def twice(*args: object) -> str | None:
        courier.tracker._logged = {}  # as another process, which has not seen the first
        first, second = perform(*args), perform(*args)
        assert first == second
        return second

    courier.tracker.perform = twice
    sweep = courier.open(courier.tracker.open_sweep, "digits-1", "identity", {"a": "b"}, {}, "here")
    own = Trial("digits-1", sweep, 0, None, 3)
    trial = courier.open(courier.tracker.open_parent, "f", "trial", {"seed": "1"}, {}, trial=own)
    parent = begin(courier)
    stage = courier.open(courier.tracker.open_stage, parent, "train_stage2", "f", {})
    send, tracker = courier.send, courier.tracker
    losses = [float("nan") if step == 3 else 0.1 for step in range(9)]
    send(tracker.points, stage, [{"step": step, "loss": loss} for step, loss in enumerate(losses)])
    send(tracker.metrics, parent, {"accuracy": 0.5, "broken": float("nan")})
    picture = tmp_path / "grid.png"
    Image.new("RGB", (4, 4)).save(picture)
    send(tracker.image, (stage, parent), picture, "grid")
    send(tracker.file, [stage], picture)
    send(tracker.texts, parent, {"record.json": "{}"})
    send(tracker.tag, stage, {"a": "b"})
    send(tracker.describe, parent, "words", stage, "figures/grid.png")
    send(tracker.sweep_results, sweep, {"best": float("inf")}, "note", [picture], [picture])
    send(tracker.protocols, parent, {"accuracy": {"subset": 10}})
    images = {"source": "x", "sha256": "0" * 64, "counts": {"train": 3, "test": 1}}
    send(tracker.datasets, parent, {"in": images})
    send(tracker.model, parent, inputs["model"], "model")
    send(tracker.close, parent, "done")
    send(tracker.fail_trial, Trial("digits-1", sweep, 0, None, None), "died")
    assert courier.wait(never) == 0
    assert courier.outbox.refused == 0
    client = MlflowClient(store.uri)
    runs = client.search_runs([courier.tracker.experiment_id])
    assert sorted(run.info.run_id for run in runs) == sorted([sweep, trial, parent, stage])
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        query = "select count(*) from metrics group by run_uuid, key, step having count(*) > 1"
        assert database.execute(query).fetchall() == []
    assert logged_steps(store.uri, stage) == list(range(9))
    run = client.get_run(parent)
    assert len(run.inputs.dataset_inputs) == 2
    [output] = run.outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert (logged.status, logged.source_run_id) == ("READY", parent)
    assert {metric.key for metric in logged.metrics} == {"accuracy", "broken"}
    assert client.get_run(trial).info.status == "FAILED"
    assert [file.path for file in client.list_artifacts(sweep)] == ["figures", "grid.png"]
    assert run.data.tags["mlflow.note.content"].startswith("![figures/grid.png](get-artifact?path=")


@pytest.mark.slow
def test_a_locked_database_is_waited_for_without_the_driver(courier, store, screen, tmp_path):
    """Training gets a name for its run at once; MLflow gives up on a locked database after 20 seconds."""
    parent = begin(courier)
    holder = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    holder.execute("begin exclusive")
    courier.send(courier.tracker.tag, parent, {"a": "b"})
    wait_until(lambda: courier.away, 90)
    stage = courier.open(courier.tracker.open_stage, parent, "sample", "f", {})
    assert courier.real(stage) == stage
    assert stage.startswith("new-")
    send_points(courier, stage, range(5))
    courier.send(courier.tracker.tag, parent, {"atjem.run.sample": stage})
    holder.execute("rollback")
    assert courier.wait(never) == 0
    real = str(courier.real(stage))
    assert real != stage
    assert logged_steps(store.uri, real) == list(range(5))
    tags = MlflowClient(store.uri).get_run(parent).data.tags
    assert tags["atjem.run.sample"] == real
    assert MlflowClient(store.uri).get_run(real).data.tags["mlflow.parentRunId"] == parent
    assert "does not answer" in screen.lines[0]
    assert screen.lines[1] == "MLflow answers again: 8 records that had waited are delivered"
    courier.close()
    assert RunNames(store.outboxes, store.name).real(stage) == real  # an artifact may have the name


@pytest.mark.parametrize("known", [True, False], ids=["by-name", "by-trial"])
def test_a_trial_whose_process_died_is_spoken_for(store, screen, known):
    """What it has left comes before what the sweep's driver says of its run, which it was to open."""
    with Courier(store, "recipe", screen) as sweeps:
        sweep = sweeps.open(sweeps.tracker.open_sweep, "digits-1", "identity", {}, {}, "here")
        trial = Trial("digits-1", sweep, 0, None, None)
        lost = Courier(store, "recipe", screen)
        box = lost.outbox
        named = box.append("open_parent", ["f", "trial 0", {}, {}], {"trial": trial}, opens_run=True).name
        box.append("points", [named, [{"step": 1, "loss": 0.5}]], {})
        dies(lost)
        sweeps.start()
        if known:
            sweeps.send(sweeps.tracker.close, named, "failed", "its process died")
        else:
            sweeps.send(sweeps.tracker.fail_trial, trial, "its process died")
        assert sweeps.wait(never) == 0
    client = MlflowClient(store.uri)
    [run] = client.search_runs([sweeps.tracker.experiment_id], f"tags.`atjem.trial` = '{trial.name}'")
    assert (run.info.status, run.data.metrics) == ("FAILED", {"loss": 0.5})
    assert run.data.tags["atjem.reason"] == "its process died"
    assert outbox_folders(store.workdir) == []
