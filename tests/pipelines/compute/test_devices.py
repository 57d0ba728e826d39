"""A recipe that does not fit this machine's devices is refused before any work."""

import subprocess
from pathlib import Path

import pytest

from pipelines.compute import devices
from pipelines.compute.devices import check_fit
from tests.support.recipes import settings_of


def test_batch_that_cannot_fit_names_the_ways_out(monkeypatch):
    monkeypatch.setattr(devices, "_ram_bytes", lambda: 16e9)
    cpus = ("compute.gpus_per_worker=0", "compute.num_workers=2", "compute.precision=fp32")
    (problem,) = check_fit(settings_of("imagenet256", *cpus))
    assert problem.where == "stage2.batch_size"
    assert problem.given.startswith("512 over 2 workers takes about ")
    assert "share of this machine's memory is 8 GB" in problem.allowed
    assert "stage2.accumulate" in problem.allowed
    assert "compute.activation_checkpointing=true" in problem.allowed
    (again,) = check_fit(settings_of("imagenet256", *cpus, "compute.activation_checkpointing=true"))
    assert "activation_checkpointing" not in again.allowed


def test_memory_of_the_gpu_counts_where_there_is_one(monkeypatch):
    monkeypatch.setattr(devices, "_gpu_bytes", lambda: 20e9)
    (problem,) = check_fit(settings_of("imagenet256"))
    assert "a worker's GPU is 20 GB" in problem.allowed
    monkeypatch.setattr(devices, "_gpu_bytes", lambda: 80e9)
    assert check_fit(settings_of("imagenet256")) == []


@pytest.mark.parametrize(
    ("changes", "setting", "ways_out"),
    [
        ((), "sample.batch_size", "use a smaller batch, or set evaluate.precision=bf16"),
        (
            ("evaluate.batch_size=250", "sample.batch_size=1"),
            "evaluate.batch_size",
            "leave it out to take what fits, or set evaluate.precision=bf16",
        ),
    ],
)
def test_evaluation_that_cannot_fit_names_the_ways_out(monkeypatch, changes, setting, ways_out):
    """Of a model that is not trained here: the estimate of training is smaller."""
    monkeypatch.setattr(devices, "_gpu_bytes", lambda: 16e9)
    own = ("stage2.steps=0", "stage2.objective=at", "evaluate.precision=fp32", *changes)
    (problem,) = check_fit(settings_of("imagenet256-convnext-large", *own))
    assert problem.where == setting
    assert problem.allowed == f"a worker's GPU is 16 GB: {ways_out}"


@pytest.mark.parametrize(
    ("said", "expected"), [("81559\n40960\n", 40960 << 20), ("", 0), ("[N/A]\n", 0), (None, 0)]
)
def test_memory_of_gpus_is_what_their_driver_says(monkeypatch, said, expected):
    def run(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        if said is None:
            raise FileNotFoundError("nvidia-smi")
        return subprocess.CompletedProcess([], 0, said)

    monkeypatch.setattr(subprocess, "run", run)
    assert devices._gpu_bytes() == expected


@pytest.mark.parametrize(("flags", "refused"), [("avx2 fma", True), ("avx2 avx512_bf16", False), ("", False)])
@pytest.mark.parametrize("setting", ["compute.precision", "evaluate.precision"])
def test_imitated_bf16_is_refused(flags, refused, setting, monkeypatch):
    emulating = settings_of("digits", f"{setting}=bf16")
    monkeypatch.setattr(Path, "read_text", lambda _: f"processor : 0\nflags : {flags}\n" if flags else "")
    problems = check_fit(emulating)
    assert [problem.where for problem in problems] == [setting] * refused
