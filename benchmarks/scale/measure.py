"""What this machine can tell about a larger one: shapes of formulas, and rates of code that runs on CPUs."""

import copy
import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image
from torch import nn

from atjem.adversarial import ClassifierAttack, DualAdversarialTraining
from atjem.attacks import Ascent, pgd_together
from atjem.balls import L2, Unbounded
from atjem.curriculum import Curriculum
from atjem.ema import Ema
from atjem.fidelity import frechet_distance
from atjem.health import Watchdog
from atjem.learner import Learner
from atjem.models.attack_network import AttackNetwork
from atjem.models.registry import JointEnergyModel, ModelSpec, build_model
from atjem.objectives import joint
from atjem.optim import make_optimizer, make_schedule
from atjem.statistics_file import Statistics
from atjem.training_objective import Batch
from data.batches import Stream
from data.build import build
from data.images import ShardImages
from data.part import Job
from data.sources.base import folder_source
from data.sources.named import photographs_source
from data.stream import rank_part
from pipelines.compute.cluster import session
from pipelines.stages.training_state import TrainingState

from .model import all_reduce_seconds, checkpoint_bytes
from .work import count_step, total_flops, trace

ROUNDS = 5
CLASSIFIER_STEPS = 3


def fastest(
    runs: dict[Any, Callable[[], object]],
    clock: Callable[[], float] = time.perf_counter,
    rounds: int = ROUNDS,
) -> dict[Any, float]:
    """Seconds of each one's fastest round, taken in turn: what others do on the machine only adds to it."""
    taken: dict[Any, float] = {}
    for number in range(rounds + 1):
        for name, run in runs.items():
            started = clock()
            run()
            seconds = clock() - started
            if number:  # the first warms up
                taken[name] = min(seconds, taken.get(name, seconds))
    return taken


def launches() -> None:
    """Host time of an operation: an attack step so small that its arithmetic is nothing."""
    network = AttackNetwork(_network("wrn-16-1", 8)).network
    x, y = torch.rand(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64)

    def run() -> None:
        pgd_together(network, [Ascent(x, y, joint, Unbounded(), 1.0, 1)])

    seconds = fastest({"": lambda: [run() for _ in range(50)]}, time.process_time)[""] / 50
    num = len(trace(run))
    print(f"an operation of eager PyTorch takes the host {1e6 * seconds / num:.0f} us ({num} operations)")


def step() -> None:
    """Time of a reduced network's step against what its counted FLOP say, relative to the smallest T."""
    arch, size, batch = "resnet-18", 64, 4
    work = count_step(arch, size, num_classes=10)
    print(f"\n{arch} at {size} px, batch {batch}, one thread, CPU seconds (fastest of {ROUNDS}):")
    print(
        "| T | GFLOP counted | measured | GFLOP/s | time / T = 1 | FLOP / T = 1 |\n|---|---|---|---|---|---|"
    )
    learners, data = {steps: _learner(arch, size, steps) for steps in (1, 5, 13)}, _batch(batch, size)
    runs = {steps: partial(learner.step, data) for steps, learner in learners.items()}
    seconds = fastest(runs, time.process_time)
    flops = {
        steps: batch * ((CLASSIFIER_STEPS + steps) * total_flops(work.attack) + total_flops(work.update))
        for steps in runs
    }
    for steps in runs:
        row = f"{flops[steps] / 1e9:.1f} | {seconds[steps]:.2f} s | {flops[steps] / seconds[steps] / 1e9:.0f}"
        print(f"| {steps} | {row} | {seconds[steps] / seconds[1]:.2f} | {flops[steps] / flops[1]:.2f} |")


def reduction() -> None:
    """All-reduce over gloo between processes, against the formula fitted to the ends of two processes' row.

    Processes on one machine share its cores and memory, so time goes with the bytes that all of them move.
    """
    sizes = {"ResNet-18": 46.8e6, "ResNet-50": 102e6, "2 x ResNet-50": 204e6}
    head = "processes | gradients | MB | measured | ring formula | the same on shared links"
    print(f"\n| {head} |\n|---|---|---|---|---|---|")
    fitted = (0.0, 0.0)
    for num in (2, 3):
        taken = _reduced(num, list(sizes.values()))
        if num == 2:  # bandwidth and latency from the ends, to predict the rest
            least, most = min(sizes.values()), max(sizes.values())
            bandwidth = (most - least) / (taken[-1] - taken[0])
            fitted = bandwidth, max(0.0, (taken[0] - least / bandwidth) / 2)
        for (name, num_bytes), seconds in zip(sizes.items(), taken, strict=True):
            told = all_reduce_seconds(num_bytes, num, *fitted)
            row = f"{num} | {name} | {num_bytes / 1e6:.0f} | {seconds:.3f} s | {told:.3f} s"
            print(f"| {row} | {num / 2 * told:.3f} s |")
    print(f"bandwidth {fitted[0] / 1e9:.2f} GB/s, a hop {1e3 * fitted[1]:.1f} ms, fitted to two processes")


def _reduced(num: int, sizes: list[float]) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_reduce, (num, sizes, folder), nprocs=num)
        return [float(line) for line in Path(folder, "seconds").read_text().split()]


def _reduce(rank: int, num: int, sizes: list[float], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=num)
    runs = {size: partial(dist.all_reduce, torch.ones(int(size) // 4)) for size in sizes}
    taken = fastest(runs, rounds=25)
    if rank == 0:
        Path(folder, "seconds").write_text(" ".join(str(taken[size]) for size in sizes))
    dist.destroy_process_group()


def streams() -> None:
    """Images a CPU second of the recipe's three streams: 256 px from JPEGs of 384 px, one thread."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _photographs(place / "in", 256)
        job = Job(3, 256, 0, 0.05, 0.0, short_side=384, encoding="jpg")
        build(folder_source(place / "in"), place / "shards", job)
        images = ShardImages(place / "shards", "train", readers=1)
        size = sum(file.stat().st_size for file in (place / "shards").glob("*.tar")) / 256
        print(f"\n384 px JPEGs, {size / 1e3:.0f} kB each; images a CPU second, one thread:")
        views = {"classifier, seeds": "rrc+flip", "energy": "flip"}
        runs = {f"{name} ({augment})": partial(_pull, images, augment) for name, augment in views.items()}
        for name, seconds in fastest(runs, time.process_time).items():
            print(f"  {name}: {4 * 32 / seconds:.0f}")


def _pull(images: ShardImages, augment: str) -> None:
    stream = Stream.of(
        images,
        "scaling",
        seed=0,
        batch_size=32,
        augment=augment,
        part=rank_part(32, 0, 1),
        device=torch.device("cpu"),
    )
    for step in range(4):
        stream.view(step, stream.indices(step))


def checkpoint() -> None:
    """Bytes of a ResNet-50's checkpoint against the formula; CPU seconds to write and to hash one."""
    learner = _learner("resnet-50", 32, 1)
    learner.step(_batch(2, 32))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        clock = time.process_time()
        TrainingState(learner, Watchdog()).snapshot()(place)
        written = time.process_time() - clock
        num_bytes = sum(file.stat().st_size for file in place.iterdir())
        clock = time.process_time()
        for file in place.iterdir():
            with file.open("rb") as opened:
                hashlib.file_digest(opened, "sha256")
        hashed = time.process_time() - clock
    parameters = sum(parameter.numel() for parameter in learner.model.parameters())
    told = checkpoint_bytes(parameters, 1, keeps_best=False)
    print(
        f"\na checkpoint of ResNet-50 with SGD: {num_bytes / 1e6:.0f} MB, by the formula {told / 1e6:.0f} MB;"
    )
    print(
        f"a gigabyte: {1e9 * written / num_bytes:.1f} CPU s to write, {1e9 * hashed / num_bytes:.1f} to hash"
    )


def look() -> None:
    """CPU seconds of one Frechet distance in 2048 features, which ranks share by candidates."""
    rng = np.random.default_rng(0)
    sides = []
    for _ in range(2):
        features = rng.standard_normal((4096, 2048)) @ np.diag(rng.uniform(0.1, 1, 2048))
        sides.append(Statistics(features.mean(0), np.cov(features, rowvar=False)))
    started = time.process_time()
    frechet_distance(*sides)
    print(f"\none Frechet distance in 2048 features: {time.process_time() - started:.0f} CPU seconds")


class _Polled:
    def poll(self) -> int:
        return 0


def polls() -> None:
    """Answers a second that one Ray process collects from actors, as Train's controller does from workers."""
    with session(None, 2, 0, 1):
        actors = [ray.remote(num_cpus=0)(_Polled).remote() for _ in range(2)]
        ray.get([actor.poll.remote() for actor in actors])
        seconds = fastest(
            {"": lambda: ray.get([actor.poll.remote() for _ in range(250) for actor in actors])}
        )
        print(f"\nRay: {500 / seconds['']:.0f} actor calls a second, asked and answered by one process")


def _network(arch: str, size: int) -> JointEnergyModel:
    torch.manual_seed(0)
    half = (0.5, 0.5, 0.5)
    return build_model(ModelSpec(arch, 10, 3, size, half, half)).eval()


def _learner(arch: str, size: int, steps: int) -> Learner:
    model: nn.Module = _network(arch, size)
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    rule = make_optimizer(
        model.parameters(), name="sgd", lr=1e-3, momentum=0.9, weight_decay=5e-4, betas=(0.9, 0.95)
    )
    schedule = make_schedule(rule, schedule="constant", warmup_steps=0, total_steps=1)
    attack = ClassifierAttack(L2(3.0), 2.0, CLASSIFIER_STEPS)
    curriculum = Curriculum(steps, max_steps=steps, threshold=1.0, window=9)
    return Learner(model, DualAdversarialTraining(attack, 2.0), rule, schedule, Ema(model, 0.999), curriculum)


def _batch(num: int, size: int) -> Batch:
    x, y = torch.rand(num, 3, size, size), torch.zeros(num, dtype=torch.int64)
    return Batch(x, y, x, y, x)


def _photographs(folder: Path, num: int) -> None:
    """Crops of scikit-learn's photographs, 4:3, resized to 384 px, in two class folders."""
    rng = np.random.default_rng(0)
    items = photographs_source(10).items
    for number in range(num):
        path = folder / str(number % 2) / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = items[number % len(items)].open()
        left, upper = rng.integers(0, 40, 2).tolist()
        part = image.crop((left, upper, left + 170, upper + 128))
        part.resize((512, 384), Image.Resampling.BICUBIC).save(path, quality=95)


PARTS = {part.__name__: part for part in (launches, step, reduction, streams, checkpoint, look, polls)}


def measure(names: list[str]) -> None:
    """Prints what each of `PARTS` measures; none: all of them."""
    torch.set_num_threads(1)
    cpus, load = os.cpu_count(), os.getloadavg()[0]
    print(f"one thread of {cpus} shared CPUs, load {load:.0f}, torch {torch.__version__}")
    for name in names or PARTS:
        PARTS[name]()
