"""Training goes first: while its workers wait for resources, other work on the cluster starts nothing new.

Ray gives what is free to whatever fits, so a group that needs many GPUs at once could wait for ever behind
tasks that need one each. A training that waits therefore leaves a mark where every process of the cluster
sees it: a placement group of one byte, whose name says what the training needs. Ray removes it with the run
that made it.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

_NAME = "atjem-training-waits"


@contextmanager
def mark_waiting(num: int, each: dict[str, float]) -> Iterator[Any]:
    """Yields the mark of `num` workers that need `each` of CPUs and GPUs; `remove_mark` when they have it."""
    needs = "/".join(f"{kind}={num * amount}" for kind, amount in each.items())
    mark = placement_group([{"memory": 1}], name=f"{_NAME}/{needs}")
    try:
        yield mark
    finally:
        remove_mark(mark)


def remove_mark(mark: Any) -> None:
    """In any process, any number of times."""
    with suppress(ray.exceptions.RayError):
        remove_placement_group(mark)


def training_waits() -> bool:
    """Whether a training waits, of any run on this cluster, that what other trainings leave is enough for."""
    groups = [group for group in placement_group_table().values() if group["state"] != "REMOVED"]
    waiting = [_needs(group["name"]) for group in groups if group["name"].startswith(_NAME)]
    if not waiting:
        return False
    left = Counter(ray.cluster_resources())
    for group in groups:
        if group["state"] == "CREATED":
            for bundle in group["bundles"].values():
                left.subtract(bundle)
    return any(all(left[kind] >= amount for kind, amount in needs.items()) for needs in waiting)


def _needs(name: str) -> dict[str, float]:
    parts = (part.split("=") for part in name.split("/")[1:])
    return {kind: float(amount) for kind, amount in parts}
