"""Which stages a run executes, reuses or skips; on a real Ray cluster."""

from pathlib import Path

import pytest
from PIL import Image

from tests.support.running import reduced_arguments

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def _statuses(result) -> dict[str, str]:
    return {stage["name"]: stage["status"] for stage in result.json["stages"]}


def test_second_run_reuses_everything(demo, demo_again):
    assert demo_again.code == 0
    assert set(_statuses(demo_again).values()) == {"cached"}
    assert demo_again.json["metrics"] == demo.result.json["metrics"]
    assert demo_again.json["run_id"] != demo.result.json["run_id"]


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


def test_nothing_is_written_beside_the_workdir(demo, pipeline, tmp_path):
    assert pipeline(*demo.arguments(), cwd=tmp_path).code == 0
    assert list(tmp_path.iterdir()) == []


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
