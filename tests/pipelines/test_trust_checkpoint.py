"""A checkpoint of more than tensors: refused, unless the command line trusts it; what that changes."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from atjem.checkpoint import CheckpointError
from atjem.models.registry import ModelSpec, build_model
from atjem.published import export_published, load_published
from pipelines.files import file_digest, read_json, write_json
from pipelines.plan import make_plan
from pipelines.preflight.settings import check_settings
from pipelines.recipe import load_recipe
from pipelines.stages import train_stage1
from pipelines.workdir.checkpoints import checkpoint_steps
from pipelines.workdir.store import Store
from tests.support.recipes import settings_of
from tests.support.running import FinishedRun, reduced_arguments, run_python
from tests.support.stages import make_context, one_thread


class Marks:
    """Whoever unpickles it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.makedirs, (str(self.mark), 0o777, True)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def checkpoint(tmp_path: Path, mark: Path) -> Path:
    """A network for digits beside an object."""
    path = tmp_path / "theirs.pt"
    torch.manual_seed(5)
    export_published(build_model(ModelSpec("wrn-10-1", 10, 1, 8, (0.0,), (1.0,))), "dat", path)
    torch.save({"model": torch.load(path), "args": Marks(mark)}, path)
    return path


def overrides(checkpoint: Path) -> list[str]:
    return [f"model.checkpoint={checkpoint}", "model.normalization=none", "stage1.steps=0"]


def test_preflight_names_what_it_would_import_and_the_option(checkpoint, mark):
    settings = settings_of("digits", *overrides(checkpoint))
    (problem,) = check_settings(settings)
    line = str(problem)
    assert line.startswith(
        f"error: model.checkpoint: {checkpoint} wants to import os.makedirs; only tensors "
    )
    assert "--trust-checkpoint unpickles this file and no other" in line
    assert not mark.exists()
    assert check_settings(settings, trust_checkpoint=True) == []
    assert mark.exists()


def test_trust_changes_no_fingerprint_and_is_stage_1s_alone(checkpoint, mark, tmp_path):
    settings, store = settings_of("digits", *overrides(checkpoint)), Store(tmp_path)
    plain, trusting = make_plan(settings, store), make_plan(settings, store, trust_checkpoint=True)
    assert plain.fingerprint == trusting.fingerprint
    assert all(step.identity == trusting.steps[name].identity for name, step in plain.steps.items())
    assert plain.steps.keys() == trusting.steps.keys()
    trusted = {name: step.node.trusted for name, step in trusting.steps.items() if step.node.trusted}
    assert trusted == {"train_stage1": str(checkpoint)}
    assert not any(step.node.trusted for step in plain.steps.values())
    assert not mark.exists()


@pytest.mark.parametrize("name", ["trust_checkpoint", "model.trust_checkpoint", "model.trusted", "trusted"])
def test_no_recipe_can_grant_it(name):
    _, problems = load_recipe("digits", [f"{name}=true"])
    assert [str(problem).split(";")[0] for problem in problems] == [f"error: {name}: unknown setting"]


def test_stage_1_takes_the_weights_of_the_trusted_file_alone(checkpoint, mark, inputs, tmp_path):
    context = make_context(tmp_path / "stage1", inputs, *overrides(checkpoint), node="train_stage1")
    for trusted in ("", str(tmp_path / "other.pt")):
        with pytest.raises(ValueError, match="pickled objects besides tensors"):
            train_stage1._start(replace(context, trusted=trusted))
    assert not mark.exists()
    model = train_stage1._start(replace(context, trusted=str(checkpoint)))
    expected = build_model(model.spec)
    load_published(expected, checkpoint, trusted=True)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))


def test_trusted_files_that_cannot_be_read_are_one_line(tmp_path):
    """Of a module that is not there; of a class that is no more."""
    network = build_model(ModelSpec("wrn-10-1", 10, 1, 8, (0.0,), (1.0,)))
    for number, name in enumerate(("nowhere\nThing", "argparse\nThing")):
        path = tmp_path / f"{number}.pth"
        path.write_bytes(b"\x80\x02c" + name.encode() + b"\n.")
        with pytest.raises(CheckpointError, match="is not a torch checkpoint that can be read"):
            load_published(network, path, trusted=True)


def test_a_whole_network_is_taken_once_it_is_trusted(tmp_path):
    """As torch.save(model) writes it."""
    network = build_model(ModelSpec("resnet-18", 3, 3, 32, (0.0,) * 3, (1.0,) * 3))
    torch.save(network.backbone, tmp_path / "whole.pt")
    other = build_model(network.spec)
    load_published(other, tmp_path / "whole.pt", trusted=True)
    pairs = zip(network.backbone.parameters(), other.backbone.parameters(), strict=True)
    assert all(torch.equal(one, another) for one, another in pairs)


@pytest.mark.parametrize("file", ["trainer.pt", "model.safetensors"])
def test_our_own_checkpoints_are_never_unpickled(tmp_path, mark, inputs, file):
    """Even where checksums match: whoever can write them could write these too."""
    small = ("stage1.steps=4", "stage1.batch_size=16", "stage1.checkpoint_every=2")
    context = make_context(tmp_path / "stage1", inputs, *small, node="train_stage1")
    with one_thread():
        train_stage1.run(context)
    for _, folder in checkpoint_steps(context.checkpoints):
        torch.save(Marks(mark), folder / file)
        checksums = read_json(folder / "checksums.json")
        assert file in checksums
        write_json(folder / "checksums.json", checksums | {file: file_digest(folder / file)})
    further = make_context(tmp_path / "again", inputs, "stage1.steps=6", *small[1:], node="train_stage1")
    with one_thread(), pytest.raises(Exception) as caught:  # noqa: PT011
        train_stage1.run(replace(further, checkpoints=context.checkpoints))
    assert "Weights only load failed" in str(caught.value) or "SafetensorError" in repr(caught.value)
    assert not mark.exists()


@pytest.mark.slow
def test_a_sweep_refuses_it_too(checkpoint, mark, tmp_path):
    sets = [word for override in overrides(checkpoint) for word in ("--set", override)]
    words = ("--pipeline", "digits", "--workdir", str(tmp_path / "runs"), *sets)
    done = run_python("sweeps/tune_pgd.py", *words)
    assert done.code == 2
    assert "wants to import os.makedirs" in done.err
    assert not mark.exists()


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_that_trusts_says_so_everywhere(pipeline, checkpoint, mark, tmp_path):
    sets = {"model__checkpoint": checkpoint, "model__normalization": "none", "stage1__steps": 0}
    arguments = [*reduced_arguments(tmp_path / "runs", **sets), "--until", "train_stage1"]
    refused = pipeline(*arguments, "--json")
    assert refused.code == 2
    assert [line for line in refused.errors if "wants to import os.makedirs" in line] == refused.errors
    assert not mark.exists()
    status = pipeline(*arguments, "--status", "--trust-checkpoint")
    assert "--trust-checkpoint" in status.out.splitlines()[-1]  # in the command that goes on
    assert not mark.exists()
    result = pipeline(*arguments, "--trust-checkpoint", "--json")
    assert result.code == 0, result.err
    trusted = FinishedRun(tmp_path / "runs", result)
    run = trusted.client.get_run(result.json["run_id"])
    assert run.data.tags["atjem.trust_checkpoint"] == str(checkpoint)
    assert run.info.run_name.startswith("digits")
    assert read_json(trusted.artifact("train_stage1") / "manifest.json")["trusted"] == str(checkpoint)


def test_trust_in_a_file_that_is_not_there(tmp_path):
    settings = settings_of("digits", *overrides(tmp_path / "nowhere.pt"))
    (problem,) = check_settings(settings, trust_checkpoint=True)
    assert "no such file" in str(problem)
