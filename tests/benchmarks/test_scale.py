"""benchmarks/scale: formulas against sums done by hand, the simulation against a closed form, the page."""

import math
import re

import numpy as np
import pytest

from atjem.models.footprint import footprint
from benchmarks.scale import tables, traffic
from benchmarks.scale.goodput import (
    Failing,
    daly_interval,
    expected_goodput,
    mean_goodput,
    simulate,
    young_interval,
)
from benchmarks.scale.model import (
    BUCKET_BYTES,
    Fabric,
    Gpu,
    all_gather_seconds,
    all_reduce_seconds,
    checkpoint_bytes,
    exposed_seconds,
    images_needed,
    pass_seconds,
    step_time,
    synchronised_norm_seconds,
)
from benchmarks.scale.work import Operation, Work, count_step, total_flops
from tests.support.running import ROOT

PAGE = ROOT / "docs" / "scaling.md"
GPU = Gpu("toy", {"fp32": 100.0}, memory=10.0, launch=0.5, attack_launch=0.25)


# Collectives


def test_times_of_collectives():
    all_reduce, all_gather = 2 * 3 / 4 * 100 / 50 + 2 * 2 * 0.5, 3 / 4 * 100 / 50 + 3 * 0.5
    assert all_reduce_seconds(100, 4, bandwidth=50, hop=0.5) == all_reduce
    assert all_reduce_seconds(100, 1, bandwidth=50, hop=0.5) == 0
    assert all_gather_seconds(100, 4, bandwidth=50, hop=0.5) == all_gather
    norms = synchronised_norm_seconds(10, 4, Fabric("toy", inside=1, between=1, hop=0.5))
    assert norms == 10 * (3 * 0.5 + 2 * 2 * 0.5)  # a gather and a reduction a layer


@pytest.mark.parametrize(("between", "num", "expected"), [(100, 8, 400), (100, 16, 100), (900, 16, 400)])
def test_bandwidth_is_the_narrowest_on_the_way(between, num, expected):
    assert Fabric("toy", inside=400, between=between, hop=0).bandwidth(num) == expected


@pytest.mark.parametrize(
    ("backward", "left"), [(0.0, 4.0), (1.0, 3.0), (100.0, 1.0)], ids=["beside nothing", "part", "the last"]
)
def test_the_backward_pass_hides_all_buckets_but_the_last(backward, left):
    """Four buckets of a second each, between two."""
    num_bytes = 4 * BUCKET_BYTES
    assert exposed_seconds(num_bytes, 2, bandwidth=BUCKET_BYTES, hop=0.0, backward=backward) == left


# A step


@pytest.mark.parametrize(
    ("operation", "seconds"),
    [
        (Operation(1, 0.1, 0.1), 0.5),
        (Operation(100, 1, 1), 8.0),
        (Operation(1, 100, 0), 80.0),
        (Operation(1, 0, 100), 20.0),
    ],
    ids=["launch", "arithmetic", "images' bytes", "weights' bytes"],
)
def test_operation_takes_the_longest_of_its_parts(operation, seconds):
    """Four images, half of the peaks."""
    assert pass_seconds([operation], 4, GPU, "fp32", achieved=0.5, launch=0.5) == seconds


def test_step():
    """Attacks: two steps of twice the images, three of the images; update; optimiser's traffic; reduction.

    One GPU talks to nobody.
    """
    work = Work(10, [Operation(100, 0, 0)], [Operation(300, 0, 0)], [Operation(0, 0, 0)])
    counts = {"classifier_steps": 2, "contrastive_steps": 5, "moments": 1}
    where = {"gpu": GPU, "fabric": Fabric("toy", inside=50, between=50, hop=0.0)}
    step, alone = (
        step_time(work, 2, num_gpus=num, **counts, **where, precision="fp32", achieved=1.0) for num in (2, 1)
    )
    assert (alone.reduction, alone.gathers) == (0, 0)
    assert step.attacks == 2 * 4 + 3 * 2
    assert step.update == 6
    assert step.state == 0.5 + (2 * 1 + 3 + 3) * 4 * 10 / 10
    assert step.reduction == 40 / 50  # one bucket: nothing hides it
    assert step.gathers == pytest.approx(2 * 64 / 50 + 2 * 0.5 * 4 * 4 / 50)
    assert step.curriculum == 20 * 0.5
    assert step.total == pytest.approx(14 + 6 + 32.5 + 0.8 + 2.88 + 10)


@pytest.mark.parametrize("arch", ["resnet-18", "convnext-tiny-cvst"])
def test_counted_work_is_the_networks(arch):
    """An attack step is a forward pass and the image's gradient, an update three of each and the weights'."""
    shape = {"num_classes": 1000, "channels": 3, "image_size": 64, "precision": "fp32"}
    forward = footprint(arch, **shape).flops
    work = count_step(arch, 64)
    assert total_flops(work.attack) == pytest.approx(2 * forward, rel=0.02)
    assert total_flops(work.update) == pytest.approx(9 * forward, rel=0.04)
    assert work.parameters == footprint(arch, **shape).parameters
    weights_read_twice = 2 * 4 * work.parameters
    assert sum(one.bytes_fixed for one in work.attack) == pytest.approx(weights_read_twice, rel=0.03)


def test_half_precision_moves_less():
    full, half = (count_step("resnet-18", 64, precision=precision) for precision in ("tf32", "bf16"))
    moved = [sum(one.bytes_of_image for one in work.attack) for work in (full, half)]
    assert 0.5 < moved[1] / moved[0] < 0.8
    assert total_flops(full.attack) == total_flops(half.attack)


# Data and checkpoints


def test_checkpoint_and_streams():
    """Model, average, two moments, the file to load, the best: six times four bytes."""
    assert checkpoint_bytes(10, 2, keeps_best=True) == 200
    assert checkpoint_bytes(10, 1, keeps_best=False) == 120
    assert images_needed(512, 3.0) == 512


# Losses of machines


def test_intervals():
    assert young_interval(2, 100) == 20
    assert daly_interval(1e-6, 1e6) == pytest.approx(young_interval(1e-6, 1e6), rel=1e-5)
    ratio = 2 / (2 * 100)
    assert daly_interval(2, 100) == pytest.approx(20 * (1 + math.sqrt(ratio) / 3 + ratio / 9) - 2)
    assert daly_interval(300, 100) == 100


def test_daly_is_near_the_best_of_the_closed_form():
    pause, restart, mean = 20.0, 60.0, 1800.0
    grid = np.linspace(30, 1500, 500)
    best = grid[np.argmax([expected_goodput(each, pause, restart, mean) for each in grid])]
    assert daly_interval(pause, mean) == pytest.approx(best, rel=0.03)


def test_without_losses_only_pauses_cost():
    job = Failing(1, node_hours=1e12, pause=5, upload=9, restart=100, wait=0)
    assert simulate(job, 100, 1000, np.random.default_rng(0)) == pytest.approx(1000 / 1050)


@pytest.mark.parametrize(
    ("nodes", "interval", "restart"), [(1, 300.0, 120), (8, 300.0, 120), (8, 60.0, 120), (8, 60.0, 900)]
)
def test_simulation_agrees_with_the_closed_form(nodes, interval, restart):
    """Where the form applies: checkpoints that count at once, restarts of one length."""
    job = Failing(nodes, node_hours=2.0, pause=10, upload=0, restart=restart, wait=0)
    told = expected_goodput(interval, job.pause, job.restart, job.mean_seconds)
    assert mean_goodput(job, interval, 100 * interval, 400) == pytest.approx(told, rel=0.03)


def test_slow_uploads_and_waits_cost():
    jobs = [
        Failing(8, node_hours=2.0, pause=1, upload=upload, restart=60, wait=wait)
        for upload, wait in ((0, 0), (200, 0), (0, 300))
    ]
    plain, *worse = (mean_goodput(each, 100, 36000, 100) for each in jobs)
    assert max(worse) < plain - 0.05


# The page


@pytest.mark.slow
@pytest.mark.parametrize(
    "table", [*tables.TABLES.values(), *traffic.TABLES.values()], ids=lambda t: t.__name__
)
def test_page_has_todays_tables(table):
    """Printed by `python benchmarks/scaling.py`; whoever changes the model puts the new ones in."""
    assert table() in PAGE.read_text(encoding="utf-8")


def test_page_names_files_that_exist():
    text = PAGE.read_text(encoding="utf-8")
    targets = [PAGE.parent / target for target in re.findall(r"\]\(([^)#]+)\)", text)]
    named = [ROOT / name for name in re.findall(r"`((?:benchmarks|atjem|pipelines|data)/[\w/]+\.py)`", text)]
    assert [str(path) for path in targets + named if "http" not in str(path) and not path.exists()] == []
    assert named
