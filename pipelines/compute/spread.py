"""Parts of a stage's work as Ray tasks: each on one worker's share of CPUs and GPUs, trainings first.

Nothing here can change a result, so stages are given it (`StageContext.spread`) and do not import it.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import ray

from pipelines.compute.priority import training_waits
from pipelines.context import MakeParts, Silent, StageContext

_WAIT_SECONDS = 1.0


def spread(context: StageContext, make: MakeParts, numbers: Sequence[int]) -> Iterator[int]:
    """Runs `make(context, some numbers)` in up to `compute.num_workers` Ray tasks; yields what is finished.

    On a GPU every task is a new process, which takes seconds to start: a task makes several parts, fewer
    towards the end, so that all tasks end at about the same time. While a training waits for its workers, a
    task ends with the part that it is making, and no other is submitted.
    """
    compute = context.settings.compute
    own = context if len(numbers) == 1 else replace(context, report=Silent())  # one part tells of its steps
    task = ray.remote(_make).options(
        num_cpus=compute.cpus_per_worker,
        num_gpus=min(1, compute.gpus_per_worker),
        max_retries=compute.max_restarts,
        num_returns="streaming",
        name=f"{context.checkpoints.parent.name} parts",
        scheduling_strategy="DEFAULT",
    )
    waiting, running = deque(numbers), dict[Any, list[int]]()
    try:
        yield from _follow(waiting, running, compute.num_workers, lambda some: task.remote(own, make, some))
    finally:
        for stream in running:  # of a stage that has failed
            ray.cancel(stream, force=True)


def _follow(
    waiting: deque[int], running: dict[Any, list[int]], most: int, submit: Callable[[list[int]], Any]
) -> Iterator[int]:
    while waiting or running:
        while waiting and len(running) < most and not training_waits():
            own = share(waiting, most)
            running[submit(own)] = own.copy()
        if not running:
            time.sleep(_WAIT_SECONDS)
            continue
        ready, _ = ray.wait(list(running), num_returns=1, timeout=_WAIT_SECONDS, fetch_local=False)
        for stream in ready:
            try:
                number = ray.get(next(stream))
            except StopIteration:
                waiting.extendleft(reversed(running.pop(stream)))  # what it left, since a training waits
            else:
                running[stream].remove(number)
                yield number


def share(waiting: deque[int], num_workers: int) -> list[int]:
    """Takes what the next task is to make: neighbours, half of a worker's share of what is left."""
    return [waiting.popleft() for _ in range(-(-len(waiting) // (2 * num_workers)))]


def _make(context: StageContext, make: MakeParts, numbers: Sequence[int]) -> Iterator[int]:
    """As many as a waiting training leaves time for."""
    if training_waits():
        return
    for number in make(context.here(), numbers):
        yield number
        if training_waits():
            return
