"""A recipe that does not fit the machine is refused before any work, with the way out."""

import pytest

from pipelines.compute.memory import least_workers, may_split, stage_bytes, weight
from pipelines.recipe import shipped_recipes
from tests.support.recipes import settings_of


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_fit_80_gb(name):
    assert all(0 < needed < 80e9 for needed in stage_bytes(settings_of(name)).values())


def test_stages_without_steps_need_nothing():
    assert list(stage_bytes(settings_of("imagenet256"))) == ["stage2"]


@pytest.mark.parametrize(
    "override", ["compute.activation_checkpointing=true", "stage2.accumulate=4", "stage2.objective=at"]
)
def test_what_saves_memory(override):
    whole, less = (
        stage_bytes(settings_of("imagenet256", *overrides))["stage2"] for overrides in ((), (override,))
    )
    assert less < 0.75 * whole


def test_what_takes_more_memory():
    """A compiled attack keeps its memory; buckets of several workers' gradients are copies."""
    alone = ("compute.num_workers=1", "stage2.batch_size=64")
    plain = stage_bytes(settings_of("imagenet256", *alone))["stage2"]
    compiled = stage_bytes(settings_of("imagenet256", *alone, "compute.compile=true"))["stage2"]
    assert compiled - plain == pytest.approx(1.1 * 128 * 54.1e6)
    assert stage_bytes(settings_of("imagenet256"))["stage2"] - plain == pytest.approx(4 * 25.6e6, rel=0.01)


def test_weight_in_one_line():
    line = weight(settings_of("imagenet256"))
    assert line.startswith("resnet-50: 25.6 M parameters, 10.7 GFLOP an image and pass; memory")
    assert "stage 2 about 24.3 GB" in line
    assert "evaluation about 4.0 GB" in line
    assert "stage 1" not in line


@pytest.mark.parametrize(("arch", "helps"), [("resnet-50", False), ("convnext-tiny", True)])
def test_gathered_statistics_forbid_recomputing_in_stage1(arch, helps):
    own = ("stage1.steps=1", f"model.arch={arch}")
    kept, recomputed = (
        stage_bytes(settings_of("imagenet256", *own, f"compute.activation_checkpointing={value}"))["stage1"]
        for value in ("false", "true")
    )
    assert (recomputed < kept) == helps


BATCHNORM, LAYERNORM = (
    ("stage1.steps=1", "model.arch=resnet-50"),
    ("stage1.steps=1", "model.arch=convnext-tiny"),
)


@pytest.mark.parametrize(
    ("overrides", "stage", "expected"),
    [
        (BATCHNORM, "stage1", False),
        (BATCHNORM, "stage2", True),
        ((*BATCHNORM, "stage2.freeze_norm=false"), "stage2", False),
        (LAYERNORM, "stage1", True),
        ((*BATCHNORM, "stage2.objective=jem"), "stage2", False),
    ],
)
def test_micro_batches_shrink_where_that_changes_no_result(overrides, stage, expected):
    assert may_split(settings_of("imagenet256", *overrides), stage) == expected


def test_least_workers_are_those_that_hold_the_batch():
    """8 workers of the batch take 12 GB each; where micro-batches shrink, any number does."""
    settings = settings_of("imagenet256", *BATCHNORM)
    needed = stage_bytes(settings)["stage1"]
    assert least_workers(settings, "stage1", needed) == 8
    assert 4 <= least_workers(settings, "stage1", 2 * needed) <= 5
    assert least_workers(settings, "stage2", needed) == 1
    assert least_workers(settings_of("imagenet256", "compute.min_workers=6"), "stage2", 1e9) == 6
