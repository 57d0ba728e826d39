"""Whether the machines of a Ray cluster can do their part with an object store: asked before any work."""

from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.causes import cause
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
    ask = ray.remote(num_cpus=0, max_retries=0)(_wrong_here)
    asked = {
        f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})": ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(store, settings)
        for node in ray.nodes()
        if node["Alive"]
    }
    return [problem for name, answer in asked.items() for problem in _told(name, answer)]


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
