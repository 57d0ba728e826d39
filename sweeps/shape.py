"""How many trials fit side by side."""

from collections.abc import Mapping

from pipelines.compute.devices import check_resources
from pipelines.problems import Problem
from pipelines.settings import Settings


def fitting(settings: Settings, available: Mapping[str, float]) -> int:
    """Trials whose training fits side by side, one at least."""
    compute = settings.compute
    each = {"CPU": compute.cpus_per_worker, "GPU": compute.gpus_per_worker}
    fits = [
        available.get(kind, 0) // (compute.num_workers * amount) for kind, amount in each.items() if amount
    ]
    return max(1, int(min(fits)))


def check_shape(
    settings: Settings, available: dict[str, float], concurrent: int, where: str
) -> list[Problem]:
    """The trials' training fits side by side, with the arithmetic shown."""
    if problems := check_resources(settings, available, where):
        return problems
    compute = settings.compute
    for kind, each in (("CPU", compute.cpus_per_worker), ("GPU", compute.gpus_per_worker)):
        asked = concurrent * compute.num_workers * each
        if asked > available.get(kind, 0):
            given = (
                f"{concurrent} trials x {compute.num_workers} workers x {each:g} {kind}s = {asked:g} {kind}s"
            )
            allowed = f"{where} has {available.get(kind, 0):g}; use at most {fitting(settings, available)}"
            problems.append(Problem("--concurrent", given, allowed))
    return problems
