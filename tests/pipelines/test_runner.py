"""Which stages a run executes, reuses or skips; on a real Ray cluster."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from PIL import Image

from pipelines.plan import make_plan
from pipelines.runner import Runner
from pipelines.workdir.store import Store
from tests.support.recipes import settings_of
from tests.support.running import reduced_arguments


def _statuses(result) -> dict[str, str]:
    return {stage["name"]: stage["status"] for stage in result.json["stages"]}


@pytest.mark.slow
@pytest.mark.ray
def test_second_run_reuses_everything(demo, demo_again):
    assert demo_again.code == 0
    assert set(_statuses(demo_again).values()) == {"cached"}
    assert demo_again.json["metrics"] == demo.result.json["metrics"]
    assert demo_again.json["run_id"] != demo.result.json["run_id"]


@pytest.mark.slow
@pytest.mark.ray
def test_forced_stage_runs_again_and_damaged_artifact_is_made_again(demo, demo_again, pipeline):
    """The sample shard loses a byte: it is made again, byte for byte, and what depends on it stays cached."""
    shard = demo.artifact("sample") / "samples-00000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    result = pipeline(*demo.arguments(), "--force", "evaluate_fidelity", "--json")
    statuses = _statuses(result)
    assert statuses.pop("sample") == statuses.pop("evaluate_fidelity") == "ran"
    assert set(statuses.values()) == {"cached"}
    assert shard.read_bytes() == whole
    before, after = (
        {name: value for name, value in run.json["metrics"].items() if not name.endswith("per_second")}
        for run in (demo_again, result)
    )
    assert after == pytest.approx(before)


@pytest.mark.slow
@pytest.mark.ray
def test_nothing_is_written_beside_the_workdir(demo, pipeline, tmp_path):
    assert pipeline(*demo.arguments(), cwd=tmp_path).code == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.ray
def test_failed_stage_says_what_to_do_and_the_rest_is_kept(pipeline, tmp_path):
    """Every third image is damaged: preprocessing stops with the list, and the exit code is 1."""
    for label in range(2):
        (tmp_path / "images" / str(label)).mkdir(parents=True)
        for index in range(60):
            path = tmp_path / "images" / str(label) / f"{index}.png"
            Image.new("L", (8, 8), index).save(path)
            if index % 3 == 1:
                path.write_bytes(path.read_bytes()[:40])
    arguments = reduced_arguments(tmp_path / "runs", data__in=tmp_path / "images", stage1__batch_size=16)
    result = pipeline(*arguments, "--set", "stage2.batch_size=16", "--json")
    assert result.code == 1
    assert (_statuses(result)["preprocess"], _statuses(result)["train_stage1"]) == ("failed", "skipped")
    assert "40 of 120 images cannot be decoded" in result.errors[0]
    assert "to go on: python pipelines/run.py" in result.errors[0]
    assert "Traceback" not in result.err
    (told,) = [line for line in result.err.splitlines() if line.startswith("its traceback is in ")]
    assert "BadImagesError" in Path(told.removeprefix("its traceback is in ")).read_text()


@pytest.mark.parametrize(("num_workers", "names"), [(1, "train_stage1, sample"), (2, "sample")])
def test_stages_that_no_node_can_run_are_told(tmp_path, monkeypatch, num_workers, names):
    """A training with several workers tells this itself, and preprocess takes no GPU."""
    changes = ("compute.gpus_per_worker=1", "compute.cpus_per_worker=8", f"compute.num_workers={num_workers}")
    plan = make_plan(settings_of("digits", *changes), Store(tmp_path))
    lines: list[str] = []
    terminal = SimpleNamespace(say=lambda text, colour: lines.append(text))
    runner = Runner(plan, Store(tmp_path), None, terminal, None)
    runner.running = dict(enumerate(["preprocess", "train_stage1", "sample"]))
    for resources in ({"CPU": 8.0, "GPU": 1.0}, {"CPU": 64.0}):
        monkeypatch.setattr(ray, "nodes", lambda own=resources: [{"Alive": True, "Resources": own}])
        runner._say_waiting()
    assert lines == [f"{names}: waits for a node with 8 CPUs and 1 GPU"]
