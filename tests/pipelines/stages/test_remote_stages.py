"""Stages whose work is spread over machines: what one has finished, another takes from the object store."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from data.build import here
from data.sources.named import open_source
from pipelines.context import StageContext
from pipelines.stages import counterfactuals, preprocess, sample, train_stage1
from pipelines.stages.parts import Part, Parts
from pipelines.stages.sample_parts import Layout, SampleMaker
from pipelines.workdir.mirror import sent_steps
from pipelines.workdir.shared_store import SharedStore
from tests.support.servers import Proxy
from tests.support.stages import Told, make_context

pytestmark = pytest.mark.slow
FINGERPRINTS = {"data": "d" * 20, "model": "e" * 20, "reference": "f" * 20}


def _publish(store: SharedStore, inputs: dict[str, Path]) -> None:
    for role, folder in inputs.items():
        with store.new_artifact("made", FINGERPRINTS[role]) as draft:
            shutil.copytree(folder, draft.folder, dirs_exist_ok=True)
            draft.publish({"fingerprint": FINGERPRINTS[role]})


def _context(store: SharedStore, folder: Path, node: str, *changes: str) -> StageContext:
    """As a node's process, or a worker of it, has it on the machine of `store`."""
    elsewhere = {role: Path("/cache/elsewhere/artifacts/made", own) for role, own in FINGERPRINTS.items()}
    context = make_context(folder, elsewhere, *changes, node=node)
    return replace(context, mirror=store.mirror(node, "key")).here()


def test_samples_of_one_machine_are_taken_by_another(at, inputs, tmp_path):
    _publish(at("a"), inputs)
    first = _context(at("a"), tmp_path / "first", "sample")
    assert all(folder.is_relative_to(tmp_path / "a") for folder in first.inputs.values())
    parts = Parts(first, SampleMaker)
    made = parts.make(SampleMaker.selection, 1, "parts", Layout(30, 20))
    made += parts.make(SampleMaker.final, 1, "parts", Layout(50, 20), 4)
    second = _context(at("b"), tmp_path / "second", "sample")
    there = [Part(second.checkpoints / part.folder.name, 0).tensors for part in made]
    assert not any(file.exists() for file in there)
    second.mirror.pull()
    times = [file.stat().st_mtime_ns for file in there]
    sample.run(second)
    assert [file.stat().st_mtime_ns for file in there] == times
    alone = make_context(tmp_path / "alone", inputs)
    sample.run(alone)
    assert _bytes(second.folder, "*.tar") == _bytes(alone.folder, "*.tar")


def _bytes(folder: Path, pattern: str) -> dict[str, bytes]:
    files = (path for path in folder.rglob(pattern) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_batches_of_counterfactuals_are_sent_as_they_are_finished(at, inputs, tmp_path):
    _publish(at("a"), inputs)
    node = "evaluate_classifier.counterfactuals"
    first = _context(at("a"), tmp_path / "first", node)
    counterfactuals.run(first)
    first.mirror.wait()
    sent = at("b").remote.entries(f"checkpoints/{node}/key/changed")
    batches = [name for name in sent if name.endswith(".safetensors")]
    assert len(batches) == 6  # two, each within three budgets
    second = _context(at("b"), tmp_path / "second", node)
    second.mirror.pull()
    before = {file: file.stat().st_mtime_ns for file in second.checkpoints.rglob("[!.]*.safetensors")}
    assert len(before) == 6
    counterfactuals.run(second)
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_large_collections_are_prepared_in_the_store(at, tmp_path, monkeypatch):
    """Shards that processes of any machines write; the artifact is the one of a single machine."""
    monkeypatch.setattr(preprocess, "SMALL", 0)
    monkeypatch.setattr(preprocess, "over_ray", here)
    changes = ("data.shard_mb=0.5",)
    alone = make_context(tmp_path / "alone", {}, *changes, node="preprocess")
    sources = {"data.in": open_source("digits", ".").identity}
    facts = preprocess.run(replace(alone, sources=sources))
    own = make_context(tmp_path / "shared", {}, *changes, node="preprocess")
    own = replace(own, sources=sources, mirror=at("a").mirror("preprocess", "key")).here()
    assert preprocess.run(own) == facts
    assert _bytes(own.folder, "*") == _bytes(alone.folder, "*")
    num = len(_bytes(own.folder, "*.tar"))
    assert num > 3
    assert at("a").finished_parts("preprocess", "key") == f"{num} finished shards"


class Cut(Told):
    """The store is out of reach from a step on, until it is said."""

    def __init__(self, way: Proxy, at: int) -> None:
        super().__init__()
        self.way, self.at = way, at

    def progress(self, done: int, total: int, unit: str, **watched: float) -> None:
        self.way.is_open = self.way.is_open and done != self.at

    def say(self, text: str) -> None:
        super().say(text)
        self.way.is_open = True


def test_training_goes_on_while_checkpoints_cannot_be_sent(at, through, inputs, tmp_path):
    changes = ("stage1.steps=20", "stage1.batch_size=16", "stage1.checkpoint_every=5")
    _publish(at("a"), inputs)
    own = _context(at("a", through.port), tmp_path / "run", "train_stage1", *changes)
    own = replace(own, report=Cut(through, at=7))
    assert train_stage1.run(own)["metrics"]["steps"] == 20
    (line,) = own.report.lines
    told = re.match(r"the checkpoint of step (5|10) could not be written or sent \(s3://lab/.*\): (.*)", line)
    assert told is not None
    assert told[2] == f"the last one is of step {int(told[1]) - 5}"
    sent = at("b").remote.entries("checkpoints/train_stage1/key")
    assert {15, 20} <= set(sent_steps(sent, 20))
