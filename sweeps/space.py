"""What a sweep may change: a YAML file of settings with their ranges, checked against the recipe."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from pipelines.problems import BadInput, Problem
from pipelines.recipe import load_recipe
from pipelines.settings import RUNTIME, Settings, flatten
from sweeps.rungs import Rungs, read_rungs

FORMS = "{low: , high: }, {times: [least, most]} (of the recipe's own value) or {choices: [...]}"
_KEYS = {
    "low": ("low", "high", "log", "step", "when"),
    "times": ("times", "log", "step", "when"),
    "choices": ("choices", "when"),
}
_REFUSED = {
    "seed": "trials of other seeds do not compare; --seeds K repeats the best over K seeds",
    "stage2.until": "a sweep uses it for its rungs; give `rungs` in the space",
}
# Settings that say how a model is measured, or on which images: figures under different ones do not compare.
_PROTOCOL = ("evaluate.", "data.", "sample.num_samples", "sample.seeds")


@dataclass(frozen=True)
class Parameter:
    """A setting to search. `own`: the recipe's value; `when`: another setting and the value it must have."""

    name: str
    distribution: BaseDistribution
    own: Any
    when: tuple[str, Any] | None = None

    @property
    def extremes(self) -> list[Any]:
        """Values that the recipe's validation must accept: both ends, or every choice."""
        if isinstance(self.distribution, CategoricalDistribution):
            return list(self.distribution.choices)
        assert isinstance(self.distribution, FloatDistribution | IntDistribution)
        return [self.distribution.low, self.distribution.high]


@dataclass(frozen=True)
class Space:
    parameters: tuple[Parameter, ...]
    rungs: Rungs | None

    def suggest(self, trial: Trial, settings: Settings) -> dict[str, Any]:
        """The trial's value for each parameter whose condition holds."""
        flat, chosen = flatten(settings), dict[str, Any]()
        for parameter in self.parameters:
            if _holds(parameter.when, flat | chosen):
                chosen[parameter.name] = _suggest(trial, parameter.name, parameter.distribution)
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
        return {p.name: p.own for p in self.parameters if _holds(p.when, flat)}


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step, log = distribution.low, distribution.high, distribution.step, distribution.log
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, int(low), int(high), step=int(step or 1), log=log)
    return trial.suggest_float(name, low, high, step=step, log=log)


def as_override(name: str, value: Any) -> str:
    """A value as `--set` takes it. Lists are text already: Optuna's choices are scalars."""
    return f"{name}={value if isinstance(value, str) else json.dumps(value)}"


def read_space(path: Path) -> str:
    """A space's text. Raises BadInput when there is no such file."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadInput(
            [Problem("--space", repr(str(path)), f"{error}; give a .yaml file of a space")]
        ) from error


def parse_space(
    text: str, where: str, pipeline: str, overrides: tuple[str, ...], settings: Settings
) -> tuple[Space, list[Problem]]:
    """The space, and every problem found in it, among them each extreme that the recipe refuses.

    Raises BadInput when the text is no space at all.
    """
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise BadInput([Problem(where, f"not readable as YAML: {error}", "mend the file")]) from error
    if not isinstance(values, dict) or not isinstance(values.get("settings"), dict) or not values["settings"]:
        allowed = "it must hold `settings:`, and below it names of settings with their ranges"
        raise BadInput([Problem(where, f"holds {_kind(values)}", allowed)])
    problems = [
        Problem(f"{where}: {name}", "unknown key", "a space holds `settings` and `rungs`")
        for name in values.keys() - {"settings", "rungs"}
    ]
    flat = flatten(settings)
    parameters: list[Parameter] = []
    for name, form in values["settings"].items():
        found = _parameter(str(name), form, flat)
        if isinstance(found, Parameter):
            problems += _check(found, pipeline, overrides)
            parameters.append(found)
        elif isinstance(found, str):
            problems.append(Problem(f"{where}: {name}", repr(form), found))
        else:
            problems += found
    ordered = _ordered(parameters)
    problems += [
        Problem(f"{where}: {p.name}", "when", "its condition depends on itself")
        for p in parameters
        if p not in ordered
    ]
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


def _parameter(name: str, form: Any, flat: Mapping[str, Any]) -> Parameter | str | list[Problem]:
    """The parameter; or what is allowed instead; or problems with its name."""
    if name in _REFUSED:
        return _REFUSED[name]
    if name in RUNTIME:
        return "it cannot change a result; set it with --set"
    if name not in flat:
        return _unknown(name)
    kind = next((key for key in _KEYS if isinstance(form, dict) and key in form), None)
    if kind is None:
        return f"write {FORMS}"
    if others := sorted(form.keys() - set(_KEYS[kind])):
        return f"{others[0]!r} is unknown beside {kind}; there are {', '.join(_KEYS[kind])}"
    when = _condition(form.get("when"), flat)
    if isinstance(when, str):
        return when
    own = flat[name]
    distribution = _choices(form["choices"], own) if kind == "choices" else _range(form, own)
    if isinstance(distribution, str):
        return distribution
    own = _scalar(own)
    if not isinstance(distribution, CategoricalDistribution) and not distribution._contains(own):
        low, high = distribution.low, distribution.high
        return f"{low:g} to {high:g} leaves out the recipe's own {own:g}, which is the first trial; widen it"
    return Parameter(name, distribution, own, when)


def _unknown(name: str) -> list[Problem]:
    """The recipe's own words, which suggest the nearest name."""
    _, problems = load_recipe("digits", [f"{name}=0"])
    return problems or [Problem(name, "holds further settings", "name one of them")]


def _choices(choices: Any, own: Any) -> CategoricalDistribution | str:
    if not isinstance(choices, list) or len(choices) < 2:
        return "choices must be a list of two or more"
    scalars = [_scalar(choice) for choice in choices]
    if any(isinstance(choice, dict) for choice in choices):
        return "choices must be values, not settings"
    if len(set(map(repr, scalars))) < len(scalars):
        return "choices must differ"
    match = next((choice for choice in scalars if choice == _scalar(own)), None)
    if match is None and own is not None:
        return f"choices leave out the recipe's own {own!r}, which is the first trial; add it"
    return CategoricalDistribution(scalars)


def _scalar(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | tuple) else value


def _range(form: Mapping[str, Any], own: Any) -> FloatDistribution | IntDistribution | str:
    if isinstance(own, bool) or not isinstance(own, int | float):
        return f"the recipe's {own!r} is no number; use {{choices: [...]}}"
    if "times" in form:
        factors = form["times"]
        if not (isinstance(factors, list) and len(factors) == 2 and all(map(_is_number, factors))):
            return "times must be [least, most], two factors of the recipe's own value"
        if own == 0:
            return "the recipe's own value is 0, and so would be every multiple; use {low: , high: }"
        low, high = (factor * own for factor in factors)
    else:
        low, high = form["low"], form.get("high")
        if not (_is_number(low) and _is_number(high)):
            return "low and high must be numbers"
    log, step = form.get("log", False), form.get("step")
    if not isinstance(log, bool):
        return "log must be true or false"
    if step is not None and not (_is_number(step) and step > 0):
        return "step must be a number above 0"
    if not low < high:
        return f"low {low:g} must be below high {high:g}"
    if log and (low <= 0 or step is not None):
        return "log needs a low above 0 and no step"
    if isinstance(own, int):
        return IntDistribution(max(round(low), 1 if log else round(low)), round(high), log, round(step or 1))
    return FloatDistribution(float(low), float(high), log, step)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _condition(when: Any, flat: Mapping[str, Any]) -> tuple[str, Any] | str | None:
    if when is None:
        return None
    if not isinstance(when, dict) or len(when) != 1:
        return "when must name one setting and its value, as {stage2.objective: dat}"
    [(name, value)] = when.items()
    if name not in flat:
        return f"when: there is no setting {name!r}"
    return (name, value)


def _holds(when: tuple[str, Any] | None, values: Mapping[str, Any]) -> bool:
    return when is None or values.get(when[0]) == _scalar(when[1])


def _check(parameter: Parameter, pipeline: str, overrides: Iterable[str]) -> Iterator[Problem]:
    """The recipe takes each extreme, by itself."""
    _, known = load_recipe(pipeline, overrides)
    met = [as_override(*parameter.when)] if parameter.when else []
    for value in parameter.extremes:
        _, problems = load_recipe(pipeline, [*overrides, *met, as_override(parameter.name, value)])
        for problem in (problem for problem in problems if problem not in known):
            yield Problem(f"space: {problem.where}", problem.given, problem.allowed)


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
