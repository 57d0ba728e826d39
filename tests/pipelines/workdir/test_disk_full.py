"""A disk that fills up under a checkpoint, a shard or an artifact: a tmpfs, where one can be mounted."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from errno import ENOSPC
from pathlib import Path

import pytest

from data.build import build
from data.part import Job
from data.sources.named import open_source
from pipelines.compute.team import is_final
from pipelines.context import StageContext
from pipelines.plan import make_plan
from pipelines.provenance import Origin
from pipelines.recipe import load_recipe
from pipelines.stages import train_stage1
from pipelines.tracking.courier import Courier
from pipelines.tracking.delivery import Server
from pipelines.tracking.record import Recorder
from pipelines.workdir.checkpoints import checkpoint_steps
from pipelines.workdir.store import Store
from tests.support.publisher import Screen, logged_steps, never
from tests.support.servers import empty_database
from tests.support.stages import Told, make_context, one_thread

CHANGES = ("stage1.steps=20", "stage1.batch_size=16", "stage1.checkpoint_every=5")
CHECKPOINT = 600_000  # bytes of one of these, about


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A file system of 8 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mount.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture(scope="module")
def data(inputs) -> Path:
    return inputs["data"]


def context(folder: Path, data: Path, checkpoints: Path) -> StageContext:
    made = make_context(folder, {"data": data}, *CHANGES, node="train_stage1")
    return replace(made, checkpoints=checkpoints, report=Told())


def train(own: StageContext) -> bytes:
    """The weights that the training ends with."""
    with one_thread():
        assert train_stage1.run(own)["metrics"]["steps"] == 20
    return (own.folder / "model.safetensors").read_bytes()


def fill(disk: Path, left: int) -> Path:
    """A file that leaves so many bytes."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        file.write(b"x" * (8 * 2**20 - left))
    return ballast


class Freeing(Told):
    """Someone makes room on the disk after some steps."""

    def __init__(self, ballast: Path, at: int) -> None:
        super().__init__()
        self.ballast, self.at = ballast, at

    def progress(self, done: int, total: int, unit: str, **watched: float) -> None:
        if done == self.at:
            self.ballast.unlink()


def test_training_goes_on_while_checkpoints_cannot_be_written(disk, data, tmp_path):
    own = context(tmp_path / "run", data, disk / "checkpoints")
    own = replace(own, report=Freeing(fill(disk, int(1.5 * CHECKPOINT)), at=12))
    train(own)
    first, _ = own.report.lines
    assert first.startswith("the checkpoint of step 5 could not be written or sent (")
    assert "No space left on device" in first
    assert first.endswith("the last one is of step 0")
    assert {15, 20} <= {step for step, _ in checkpoint_steps(own.checkpoints)}
    assert not list(own.checkpoints.glob(".*"))


@pytest.mark.slow
def test_the_last_checkpoint_must_be_written_and_the_same_training_goes_on_later(disk, data, tmp_path):
    own = context(tmp_path / "run", data, disk / "checkpoints")
    ballast = fill(disk, int(1.5 * CHECKPOINT))
    with pytest.raises(OSError, match="No space left on device") as raised:
        train(own)
    assert raised.value.errno == ENOSPC
    assert is_final(raised.value)
    ballast.unlink()
    again = context(tmp_path / "again", data, own.checkpoints)
    whole = context(tmp_path / "whole", data, tmp_path / "checkpoints")
    assert train(again) == train(whole)


def test_a_shard_that_does_not_fit_leaves_nothing_half_and_the_rest_is_made_later(disk, tmp_path):
    job = Job(1, 8, seed=0, test_fraction=0.2, max_bad_fraction=0, shard_mb=0.5)
    source, ballast = open_source("digits", "."), disk / "ballast"

    def fills_after_a_shard(done: int, total: int) -> None:
        with suppress(OSError), ballast.open("wb") as file:
            file.write(b"x" * 8 * 2**20)

    with pytest.raises(OSError, match="No space left on device"):
        build(source, disk / "images", job, progress=fills_after_a_shard)
    (first,) = (disk / "images").glob("[!.]*.tar")
    ballast.unlink()
    written = first.stat().st_mtime_ns
    build(source, disk / "images", job)
    assert first.stat().st_mtime_ns == written
    build(source, tmp_path / "images", job)
    made, expected = (
        {path.name: path.read_bytes() for path in (place / "images").iterdir()} for place in (disk, tmp_path)
    )
    assert made == expected


def test_an_artifact_that_does_not_fit_is_none(disk):
    store = Store(disk)
    with store.new_artifact("sample", "abc") as draft:
        (draft.folder / "samples").write_bytes(b"x" * 2**20)
        fill(disk, 2**20 + 8192)
        with pytest.raises(OSError, match="No space left on device"):
            draft.publish({"fingerprint": "abc", "much": "x" * 10_000})
    assert store.manifest("sample", "abc") is None
    assert store.in_the_making() == []


def test_a_curve_waits_for_room_and_is_told_whole(disk, tmp_path):
    """Of a training that goes on meanwhile."""
    (tmp_path / "mlflow.db").write_bytes(empty_database())
    server, screen = Server(disk, f"sqlite:///{tmp_path / 'mlflow.db'}"), Screen()
    recipe, _ = load_recipe("digits")
    plan = make_plan(recipe.settings, Store(disk))
    node = plan.steps["train_stage1"].node
    with Courier(server, "digits", screen) as courier:
        recorder = Recorder(courier, recipe, "digits", plan, Store(disk), Origin("unknown", ""), alone=False)
        courier.start()
        run = recorder.node_starts(node)
        ballast = disk / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(b"x" * 1000):
                pass
        for steps in (range(300), range(300, 600)):  # more than a page has room for
            recorder.points(node, [{"step": step, "loss": 0.5} for step in steps])
        ballast.unlink()
        recorder.points(node, [{"step": 600, "loss": 0.5}])
        assert courier.wait(never) == 0
    assert logged_steps(server.uri, run, "stage1_loss" if node.prefix else "loss") == list(range(601))
    assert len([line for line in screen.lines if "MLflow is told later" in line]) == 1
