"""What a sweep may change: a YAML file of settings with their ranges, checked against the recipe."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution
from optuna.trial import Trial

from pipelines.problems import BadInput, Problem
from pipelines.recipe import LARGEST_FILE, load_recipe, numbers
from pipelines.settings import Settings, flatten
from pipelines.yaml_text import read_yaml
from sweeps.parameter import Parameter, read_parameter, scalar
from sweeps.rungs import Rungs, read_rungs

# Settings that say how a model is measured, or on which images: figures under different ones do not compare.
_PROTOCOL = ("evaluate.", "data.", "sample.num_samples", "sample.seeds")


@dataclass(frozen=True)
class Space:
    parameters: tuple[Parameter, ...]
    rungs: Rungs | None

    def suggest(self, trial: Trial, settings: Settings) -> dict[str, Any]:
        """The trial's value for each parameter whose condition holds."""
        flat, chosen = flatten(settings), dict[str, Any]()
        for parameter in self.parameters:
            if parameter.holds(flat | chosen):
                chosen[parameter.name] = parameter.suggest(trial)
        return chosen

    def told(self, values: Mapping[str, Any]) -> str:
        """Values for people, by as much of each name as tells it from the others."""
        words = []
        for name, value in values.items():
            parts = name.split(".")
            others = [parameter.name for parameter in self.parameters if parameter.name != name]
            endings = (".".join(parts[place:]) for place in reversed(range(len(parts))))
            short = next((e for e in endings if not any(o.endswith(f".{e}") for o in others)), name)
            words.append(f"{short}={value:.4g}" if isinstance(value, float) else f"{short}={value}")
        return "  ".join(words)

    def own(self, settings: Settings) -> dict[str, Any]:
        """The recipe itself, as a point of the space."""
        flat = flatten(settings)
        return {p.name: p.own for p in self.parameters if p.holds(flat)}

    def grid(self, settings: Settings) -> list[dict[str, Any]]:
        """Every point of a space of choices, once; the recipe itself first. Of a range, its ends alone."""
        flat, points = flatten(settings), [self.own(settings)]
        for values in product(*(parameter.extremes for parameter in self.parameters)):
            chosen: dict[str, Any] = {}
            for parameter, value in zip(self.parameters, values, strict=True):
                if parameter.holds(flat | chosen):
                    chosen[parameter.name] = value
            if chosen not in points:
                points.append(chosen)
        return points


def as_override(name: str, value: Any) -> str:
    """A value as `--set` takes it. Lists are text already: Optuna's choices are scalars."""
    return f"{name}={value if isinstance(value, str) else json.dumps(value)}"


def read_text(path: Path, where: str) -> str:
    """A small file. Raises BadInput when it cannot be read."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(LARGEST_FILE)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(
            [Problem(where, repr(str(path)), f"{reason}; give a .yaml file that is there")]
        ) from error


def parse_space(
    text: str, where: str, pipeline: str, overrides: tuple[str, ...], settings: Settings
) -> tuple[Space, list[Problem]]:
    """The space, and every problem found in it, among them each extreme that the recipe refuses.

    Raises BadInput when the text is no space at all.
    """
    try:
        values = numbers(read_yaml(text))
    except ValueError as error:
        raise BadInput([Problem(where, f"not readable as YAML: {error}", "mend the file")]) from error
    if not isinstance(values, dict) or not isinstance(values.get("settings"), dict) or not values["settings"]:
        allowed = "it must hold `settings:`, and below it names of settings with their ranges"
        raise BadInput([Problem(where, f"holds {_type(values)}", allowed)])
    problems = [
        Problem(f"{where}: {name}", "unknown key", "a space holds `settings` and `rungs`")
        for name in values.keys() - {"settings", "rungs"}
    ]
    flat = flatten(settings)
    parameters: list[Parameter] = []
    for name, form in values["settings"].items():
        found = read_parameter(str(name), form, flat)
        if isinstance(found, Parameter):
            parameters.append(found)
        else:
            problems.append(Problem(f"{where}: {name}", repr(form), found))
    for parameter in parameters:
        if reason := _never_holds(parameter, parameters, flat):
            form = values["settings"][parameter.name]
            problems.append(Problem(f"{where}: {parameter.name}", repr(form), reason))
        else:
            problems += _check(parameter, where, pipeline, overrides)
    ordered = _ordered(parameters)
    problems += [
        Problem(f"{where}: {p.name}", "when", "its condition depends on itself")
        for p in parameters
        if p not in ordered
    ]
    if values.get("rungs") is not None and any(p.name == "stage2.steps" for p in parameters):
        allowed = "trials of other lengths do not compare at rungs: leave out `rungs`, or do not search it"
        problems.append(Problem(f"{where}: stage2.steps", "searched beside rungs", allowed))
    rungs, found_problems = read_rungs(values.get("rungs"), where, pipeline, overrides, settings)
    return Space(tuple(ordered), rungs), problems + found_problems


def _ordered(parameters: list[Parameter]) -> list[Parameter]:
    """Each after the one that its condition looks at; those whose conditions go round are left out."""
    pending, ordered = list(parameters), []
    while ready := [
        p for p in pending if p.when is None or p.when[0] not in {other.name for other in pending}
    ]:
        ordered += ready
        pending = [p for p in pending if p not in ready]
    return ordered


def incomparable(space: Space) -> list[str]:
    """Parameters that change how trials are measured, or on what."""
    return [p.name for p in space.parameters if p.name.startswith(_PROTOCOL)]


def _never_holds(parameter: Parameter, parameters: Iterable[Parameter], flat: Mapping[str, Any]) -> str:
    """Why its condition can never be met; empty when it can."""
    if parameter.when is None:
        return ""
    name, value = parameter.when
    searched = next((other for other in parameters if other.name == name), None)
    if searched is None:
        told = f"when: {name} is {flat[name]!r} in every trial, so this is never searched"
        return "" if parameter.holds(flat) else told
    if isinstance(searched.distribution, CategoricalDistribution):
        choices = searched.distribution.choices
        return "" if scalar(value) in choices else f"when: {name} is never {value!r}; it is one of {choices}"
    return f"when: {name} is searched in a range, and a condition needs choices"


def _check(parameter: Parameter, where: str, pipeline: str, overrides: Iterable[str]) -> Iterator[Problem]:
    """The recipe takes each extreme, by itself."""
    _, known = load_recipe(pipeline, overrides)
    met = [as_override(*parameter.when)] if parameter.when else []
    for value in parameter.extremes:
        _, problems = load_recipe(pipeline, [*overrides, *met, as_override(parameter.name, value)])
        for problem in (problem for problem in problems if problem not in known):
            yield Problem(f"{where}: {problem.where}", problem.given, problem.allowed)


def _type(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
