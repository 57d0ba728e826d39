"""Training goes first: while its workers wait for resources, other work on the cluster starts nothing new.

Ray gives what is free to whatever fits, so a group that needs many GPUs at once could wait for ever behind
tasks that need one each. A training that waits therefore leaves a mark where every process of the cluster
sees it: a placement group of one byte, whose name says what the training needs. It goes when the workers have
started, when the training's task has ended, or with the run.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray import PlacementGroupID
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

_NAME = "atjem-training-waits"


@contextmanager
def mark_waiting(training: str, num: int, each: dict[str, float]) -> Iterator[None]:
    """Marks a training's workers as waiting, `each` for these CPUs and GPUs, until `remove_mark` or exit."""
    remove_mark(training)  # of a process that was killed
    needs = "/".join(f"{kind}={num * amount}" for kind, amount in each.items())
    placement_group([{"memory": 1}], name=f"{_NAME}/{training}/{needs}")
    try:
        yield
    finally:
        remove_mark(training)


def remove_mark(training: str) -> None:
    """In any process, any number of times."""
    _remove(lambda group: group["name"].startswith(f"{_NAME}/{training}/"))


def remove_groups(memory: int) -> None:
    """Placement groups whose bundles ask for so many bytes of memory, if any are left."""
    _remove(lambda group: any(bundle.get("memory") == memory for bundle in group["bundles"].values()))


def _remove(chosen: Callable[[dict[str, Any]], bool]) -> None:
    for identity, group in placement_group_table().items():
        if group["state"] != "REMOVED" and chosen(group):
            with suppress(ray.exceptions.RayError):
                remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(identity))))


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
    parts = (part.split("=") for part in name.split("/")[2:])
    return {kind: float(amount) for kind, amount in parts}
