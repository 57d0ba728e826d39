"""How well a run of an ImageNet recipe uses 8 and 64 GPUs: the real scheduling, with stages that only wait.

    python benchmarks/schedule.py                    simulated: both policies, 8 and 64 GPUs
    python benchmarks/schedule.py --run RECIPE       Ray with 8 GPUs by name; stages sleep
        [--seconds 300]                              that the lower bound is scaled to

Hours of training, of evaluations during it and of sampling are those of docs/scaling.md's model (H100). The
others are estimates for one GPU: reference features 0.75; attacks, OOD scores and counterfactuals together 2
(ResNet-50), 5 (WRN-50-4) and 17 (ConvNeXt-L). The lower bound is the larger of the critical path and all GPU
hours divided by the GPUs. 'Before' gives each evaluation one GPU, and sampling all of them. It is simulated
as if training had waited for all GPUs, where it failed after five minutes: `--run` with the packages of
commit 3e325ad shows that.
"""

import argparse
import heapq
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

GPUS = 8


@dataclass(frozen=True)
class Job:
    """A stage: hours on all GPUs at once (training), or hours of one GPU in parts that any can make."""

    needs: tuple[str, ...]
    training: float = 0.0
    hours: float = 0.0
    parts: int = 1


@dataclass(frozen=True)
class Recipe:
    """Seconds of a step and of an evaluation during training on 8 and 64 GPUs; GPU hours of what follows."""

    step: tuple[float, float]
    look: tuple[float, float]
    sampling: float
    evaluation: float

    def jobs(self, gpus: int, steps: int = 50_000, looks: int = 100) -> dict[str, Job]:
        place = (8, 64).index(gpus)
        training = (steps * self.step[place] + looks * self.look[place]) / 3600
        model = ("train_stage2", "reference_stats")
        return {
            "reference_stats": Job((), hours=0.75, parts=67),
            "train_stage2": Job(("reference_stats",), training=training),
            "sample": Job(model, hours=self.sampling, parts=112),
            "evaluate_classifier": Job(model, hours=0.9 * self.evaluation, parts=100),
            "evaluate_classifier.counterfactuals": Job(model, hours=0.1 * self.evaluation, parts=48),
        }


RECIPES = {
    "imagenet256": Recipe((1.29, 0.234), (21.3, 8.3), 0.17, 2),
    "imagenet256-wrn50x4": Recipe((7.04, 0.950), (52.1, 12.9), 0.51, 5),
    "imagenet256-convnext-large": Recipe((7.34, 1.59), (58.6, 13.9), 0.58, 17),
}


def lower_bound(jobs: dict[str, Job], gpus: int) -> float:
    def path(name: str) -> float:
        job = jobs[name]
        return job.training + job.hours / job.parts + max(map(path, job.needs), default=0)

    work = sum(job.training * gpus + job.hours for job in jobs.values())
    return max(max(map(path, jobs)), work / gpus)


def simulate(jobs: dict[str, Job], gpus: int, *, spreads: bool) -> float:
    """Hours from the first to the last stage, event by event. Trainings go first; parts take what is free.

    spreads: stages' parts go to all GPUs; without, only those of `sample`.
    """
    left = {
        name: job.parts if spreads or name == "sample" else 1
        for name, job in jobs.items()
        if not job.training
    }
    each = {name: jobs[name].hours / num for name, num in left.items()}
    pending, running = dict(left), dict.fromkeys(jobs, 0)
    free, done, now, order = gpus, set[str](), 0.0, count()
    events: list[tuple[float, int, str, int]] = []

    def start(name: str, taken: int, hours: float) -> None:
        nonlocal free
        free -= taken
        running[name] += 1
        heapq.heappush(events, (now + hours, next(order), name, taken))

    while len(done) < len(jobs):
        ready = [name for name, job in jobs.items() if name not in done and done.issuperset(job.needs)]
        waiting = [name for name in ready if jobs[name].training and not running[name]]
        if waiting and free == gpus:
            start(waiting[0], gpus, jobs[waiting[0]].training)
        while not waiting and free:
            able = [name for name in ready if pending.get(name)]
            if not able:
                break
            name = min(able, key=running.__getitem__)
            pending[name] -= 1
            start(name, 1, each[name])
        now, _, name, taken = heapq.heappop(events)
        free, running[name] = free + taken, running[name] - 1
        if not running[name] and not pending.get(name):
            done.add(name)
    return now


def show_simulation() -> None:
    print(f"{'recipe':28} {'GPUs':>4} {'lower bound':>12} {'before':>14} {'now':>14}")
    for name, recipe in RECIPES.items():
        for gpus in (8, 64):
            jobs = recipe.jobs(gpus)
            bound = lower_bound(jobs, gpus)
            hours = [simulate(jobs, gpus, spreads=spreads) for spreads in (False, True)]
            told = "".join(f" {own:7.1f} h {own / bound:4.2f}" for own in hours)
            print(f"{name:28} {gpus:4} {bound:10.1f} h {told}")


# The real scheduling: nodes that sleep in the place of what they compute.


@dataclass(frozen=True)
class Sleeping:
    """Makes parts, or trains, by waiting; notes when each GPU was used."""

    log: Path
    name: str
    seconds: float
    gpus: int = 1

    def __call__(self, context: Any, numbers: Sequence[int] = (0,)) -> Iterator[int]:
        for number in numbers:
            self.sleep()
            yield number

    def sleep(self) -> None:
        started = time.time()
        time.sleep(self.seconds)
        with self.log.open("a") as file:
            file.write(json.dumps([self.name, started, time.time(), self.gpus]) + "\n")


@dataclass(frozen=True)
class Training:
    """A training worker."""

    sleeping: Sleeping

    def __call__(self, config: dict[str, Any]) -> None:
        import ray.train

        if ray.train.get_context().get_world_rank() == 0:
            self.sleeping.sleep()
        else:
            time.sleep(self.sleeping.seconds)


class Sleeper:
    """For the version before: an actor that makes parts of the samples."""

    def __init__(self, sleeping: Sleeping) -> None:
        self.sleeping = sleeping

    def make(self, number: int) -> int:
        self.sleeping.sleep()
        return number


def execute(task: Any, jobs: dict[str, Job], scale: float, log: Path) -> dict[str, Any]:
    """In the place of `pipelines.execute.execute`."""
    from ray.train.torch import TorchConfig

    from pipelines.compute import team
    from pipelines.compute.channel import MailReporter
    from pipelines.context import StageContext

    team.TorchConfig = partial(TorchConfig, "gloo")  # type: ignore[misc]
    run_workers = team.run_workers
    node, settings, store = task.node, task.settings, task.store
    job = jobs.get(node.name)
    with store.new_artifact(node.stage, task.fingerprint) as draft:
        report = MailReporter(task.mailbox, node.name)
        checkpoints = store.checkpoints(node.stage, task.key)
        given = (settings, task.inputs, draft.folder, checkpoints, report, {}, run_workers)
        if job and job.training:
            sleeping = Sleeping(log, node.name, job.training * scale, GPUS)
            run_workers(Training(sleeping), StageContext(*given, *_spread()), settings.stage2)
        elif job and job.hours:
            sleeping = Sleeping(log, node.name, job.hours / job.parts * scale)
            _make_parts(sleeping, job.parts, node, StageContext(*given, *_spread()))
        facts = {"metrics": {}, "protocols": {}, "seconds": 0.0, "made_from": dict(task.made_from)}
        return draft.publish(
            {"stage": node.stage, "node": node.name, "fingerprint": task.fingerprint, **facts}
        )


def _spread() -> tuple[Any, ...]:
    try:
        from pipelines.compute.spread import spread
    except ImportError:
        return ()
    return (spread,)


def _make_parts(sleeping: Sleeping, num: int, node: Any, context: Any) -> None:
    import ray
    from ray.util import ActorPool

    if _spread():
        for _ in context.spread(context, sleeping, range(num)):
            pass
    elif node.has_workers:
        actor = ray.remote(Sleeper).options(num_cpus=1, num_gpus=1)
        pool = ActorPool([actor.remote(sleeping) for _ in range(GPUS)])
        list(pool.map_unordered(lambda one, number: one.make.remote(number), range(num)))
    else:
        replace(sleeping, seconds=num * sleeping.seconds).sleep()


def run(name: str, seconds: float) -> None:
    """One run of a recipe's graph by the real Runner on a local cluster that is said to have 8 GPUs."""
    import pipelines.runner
    from pipelines.compute.cluster import session
    from pipelines.plan import make_plan
    from pipelines.recipe import load_recipe
    from pipelines.terminal import Terminal
    from pipelines.workdir.store import Store

    jobs = RECIPES[name].jobs(GPUS)
    bound = lower_bound(jobs, GPUS)
    changes = (
        "data.in=digits",
        "data.ood=noise-smooth",
        "compute.cpus_per_worker=1",
        "model.checkpoint=null",
    )
    recipe, problems = load_recipe(name, changes)
    assert not problems, problems
    with (
        tempfile.TemporaryDirectory(prefix="schedule-") as folder,
        session(None, 32, GPUS, 1, also=("benchmarks",)),
    ):
        log, store = Path(folder, "log"), Store(Path(folder, "runs"))
        scale = seconds / bound
        pipelines.runner.execute = lambda task: execute(task, jobs, scale, log)  # type: ignore[attr-defined]
        plan = make_plan(recipe.settings, store)
        recorder: Any = _Recorder()
        runner = pipelines.runner.Runner(plan, store, recorder, Terminal(), SimpleNamespace(count=0))  # type: ignore[arg-type]
        runner.memory = 80e9
        started = time.time()
        outcome = runner.run()
        took = time.time() - started
        for failed in outcome.failed:
            print(f"{failed} failed after {took:.0f} s: {outcome.reason[failed]}")
        used = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    print(f"{name}: {took:.0f} s, lower bound {seconds:.0f} s: {took / seconds:.2f}x")
    _show_idle(used)


class _Recorder:
    """Tells nobody."""

    provenance: dict[str, str] = {}  # noqa: RUF012

    def node_starts(self, node: Any) -> str:
        return ""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def _show_idle(used: list[tuple[str, float, float, int]]) -> None:
    """GPU seconds that nothing used between a stage's first and last part, and before its first."""
    spans: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for name, begin, end, gpus in used:
        spans[name].append((begin, end, gpus))
    last = min((begin for _, begin, _, _ in used), default=0.0)
    for name, own in sorted(spans.items(), key=lambda item: min(item[1])):
        begin, end = min(span[0] for span in own), max(span[1] for span in own)
        busy = sum(
            max(0.0, min(end, other_end) - max(begin, other_begin)) * gpus
            for _, other_begin, other_end, gpus in used
        )
        idle = 1 - busy / (GPUS * (end - begin))
        print(
            f"  {name:36} {end - begin:6.1f} s, GPUs idle {idle:4.0%}, {begin - last:5.1f} s after the last"
        )
        last = max(last, end)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", choices=RECIPES)
    parser.add_argument("--seconds", type=float, default=300)
    options = parser.parse_args()
    if options.run:
        from benchmarks.schedule import run as run_by_name  # so that Ray's processes find what it submits

        run_by_name(options.run, options.seconds)
    else:
        show_simulation()


if __name__ == "__main__":
    main()
