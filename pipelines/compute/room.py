"""How many workers the nodes of a Ray cluster have room for, whatever runs there now."""

from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:
    from pipelines.settings import Compute


def worker_resources(compute: "Compute", *, use_gpu: bool = True) -> dict[str, float]:
    """CPUs and GPUs of one worker, as Ray names them; none of a kind is left out."""
    resources = {"CPU": compute.cpus_per_worker, "GPU": compute.gpus_per_worker * use_gpu}
    return {kind: amount for kind, amount in resources.items() if amount}


def room(compute: "Compute", *, use_gpu: bool = True) -> int:
    """The most workers, up to `compute.num_workers`, that all nodes together can bear."""
    most = sum(room_on(node, compute, use_gpu=use_gpu) for node in ray.nodes())
    return min(most, compute.num_workers)


def room_on(node: dict[str, Any], compute: "Compute", *, use_gpu: bool = True) -> int:
    """node: one of `ray.nodes()`."""
    if not node["Alive"]:
        return 0
    each = worker_resources(compute, use_gpu=use_gpu)
    return int(min(node["Resources"].get(kind, 0) // amount for kind, amount in each.items()))


def worker_in_words(compute: "Compute", *, use_gpu: bool = True) -> str:
    """As '8 CPUs and 1 GPU'."""
    each = worker_resources(compute, use_gpu=use_gpu)
    return " and ".join(f"{num:g} {kind}{'s' * (num != 1)}" for kind, num in each.items())
