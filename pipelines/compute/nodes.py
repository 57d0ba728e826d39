"""What only the machines of a Ray cluster can tell: asked by a small task on each of them."""

from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.causes import cause
from pipelines.compute.devices import check_memory, worker_memory
from pipelines.compute.room import room_on
from pipelines.files import path_exists
from pipelines.plan import FILES
from pipelines.preflight.places import check_place
from pipelines.problems import Problem
from pipelines.settings import Settings, flatten
from pipelines.workdir.remote import REACHABLE
from pipelines.workdir.shared_store import SharedStore

_ANSWER_SECONDS = 120


def check_nodes(store: SharedStore, settings: Settings) -> list[Problem]:
    """Every node reaches the store, has room for its cache, and the files that settings name."""
    answers = _ask(ray.nodes(), _wrong_here, store, settings)
    return [problem for name, answer in answers for problem in _told(name, answer)]


def check_memory_of_nodes(settings: Settings) -> list[Problem]:
    """A worker of each stage fits every node that could bear one."""
    there = smallest_memory(settings)
    return check_memory(settings, there, "the smallest of the cluster's workers")


def smallest_memory(settings: Settings) -> float:
    """Bytes that a worker may take on whichever node it runs; 0 when no node knows."""
    if len(ray.nodes()) == 1:
        return worker_memory(settings)
    compute, answers, found = settings.compute, [], []
    for node in ray.nodes():
        if fits := room_on(node, compute):
            answers += _ask([node], worker_memory, settings, min(fits, compute.num_workers))
    for _, answer in answers:
        try:
            found.append(float(ray.get(answer, timeout=_ANSWER_SECONDS)))
        except RayError:  # a node that is going: its workers will start elsewhere
            continue
    return min((memory for memory in found if memory), default=0)


def _ask(nodes: list[dict[str, Any]], question: Callable[..., Any], *arguments: Any) -> list[tuple[str, Any]]:
    """The name of each node that is alive, and its answer to be."""
    ask = ray.remote(num_cpus=0, max_retries=0)(question)
    return [
        (
            f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})",
            ask.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(*arguments),
        )
        for node in nodes
        if node["Alive"]
    ]


def _told(node: str, answer: Any) -> Iterator[Problem]:
    try:
        for problem in ray.get(answer, timeout=_ANSWER_SECONDS):
            yield Problem(problem.where, f"{problem.given}, on node {node}", problem.allowed)
    except RayError as error:
        yield Problem("--ray-address", f"node {node} runs nothing", cause(error))


def _wrong_here(store: SharedStore, settings: Settings) -> list[Problem]:
    """On the node."""
    store, flat = store.here(), flatten(settings)
    absent = [(name, str(flat[name])) for name in FILES if flat[name] and not path_exists(str(flat[name]))]
    problems = [Problem(name, path, "is not there; each node needs it at this path") for name, path in absent]
    if reason := store.remote.unusable() or store.remote.unwritable():
        problems.append(Problem("--workdir", store.place, f"{reason}; {REACHABLE}"))
    return problems + check_place(store.workdir, settings, "ATJEM_CACHE")
