"""Rungs: looks at a trial before its training is done, and what makes these looks cheap."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.graph import build_graph, stage_needs
from pipelines.problems import Problem
from pipelines.recipe import load_recipe
from pipelines.settings import Settings, flatten

_KEYS = ("first", "factor", "settings")
_FEWEST = 10  # of samples, which any recipe needs


@dataclass(frozen=True)
class Rungs:
    """Trials are compared after a share of training, and again each time it is `factor` times as long.

    `settings`: overrides under which a look is taken: fewer samples, a cheaper attack.
    """

    first: float
    factor: int
    settings: tuple[str, ...]

    def steps(self, steps: int) -> tuple[int, ...]:
        """The training steps of each look, all below `steps`."""
        looks, look = [], max(1, round(self.first * steps))
        while look < steps:
            looks.append(look)
            look *= self.factor
        return tuple(looks)


def read_rungs(
    values: Any, where: str, pipeline: str, overrides: tuple[str, ...], settings: Settings
) -> tuple[Rungs | None, list[Problem]]:
    """`rungs` of a space: None where it has none. Also every problem found in it."""
    if values is None:
        return None, []
    where = f"{where}: rungs"
    if not isinstance(values, dict) or (unknown := sorted(map(str, values.keys() - set(_KEYS)))):
        given = f"unknown {unknown[0]!r}" if isinstance(values, dict) else repr(values)
        return None, [Problem(where, given, f"it holds {', '.join(_KEYS)}")]
    first, factor = values.get("first", 0.125), values.get("factor", 3)
    problems = []
    if not isinstance(first, float) or not 0 < first < 1:
        problems.append(Problem(f"{where}.first", repr(first), "must be a share of stage2.steps, as 0.125"))
    if not isinstance(factor, int) or isinstance(factor, bool) or factor < 2:
        problems.append(Problem(f"{where}.factor", repr(factor), "must be a whole number of 2 or more"))
    cheaper = values.get("settings") or {}
    if not isinstance(cheaper, dict):
        problems.append(Problem(f"{where}.settings", repr(cheaper), "must be settings with their values"))
        cheaper = {}
    problems += [
        Problem(
            f"{where}.settings.{name}",
            repr(value),
            "a look changes how a model is measured, not its training",
        )
        for name, value in cheaper.items()
        if _trains(str(name), settings)
    ]
    changed = tuple(_cheaper(name, value, flatten(settings)) for name, value in cheaper.items())
    (_, known), (_, refused) = (load_recipe(pipeline, (*overrides, *more)) for more in ((), changed))
    problems += [
        Problem(f"{where}.settings.{p.where}", p.given, p.allowed) for p in refused if p not in known
    ]
    if problems:
        return None, problems
    return Rungs(first, factor, changed), []


def _cheaper(name: str, value: Any, flat: Mapping[str, Any]) -> str:
    """An override. {times: 0.25} takes a quarter of the recipe's own number, and ten at least."""
    if isinstance(value, dict) and value.keys() == {"times"}:
        own, factor = flat.get(name), value["times"]
        if isinstance(own, int | float) and isinstance(factor, int | float) and 0 < factor <= 1:
            part = own * factor
            return f"{name}={max(min(own, _FEWEST), round(part)) if isinstance(own, int) else part}"
    return f"{name}={value if isinstance(value, str) else json.dumps(value, default=str)}"


def _trains(name: str, settings: Settings) -> bool:
    """True for a setting of the training itself, which a look must leave as it is."""
    graph = build_graph(settings)
    nodes = stage_needs(graph, ["train_stage2"])
    return any(name == path or name.startswith(f"{path}.") for node in nodes for path in graph[node].reads)
