"""One entry of a space: a setting of the recipe, and the values that it may take."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from pipelines.settings import RUNTIME

FORMS = "{low: , high: }, {times: [least, most]} (of the recipe's own value) or {choices: [...]}"
_LARGEST = 1e15  # of numbers in a space, in either direction
_KEYS = {
    "low": ("low", "high", "log", "step", "when"),
    "times": ("times", "log", "step", "when"),
    "choices": ("choices", "when"),
}
_REFUSED = {
    "seed": "trials of other seeds do not compare; --seeds K repeats the best over K seeds",
    "stage2.until": "a sweep uses it for its rungs; give `rungs` in the space",
}


@dataclass(frozen=True)
class Parameter:
    """A setting to search. `own`: the recipe's value; `when`: another setting and the value it must have."""

    name: str
    distribution: BaseDistribution
    own: Any
    when: tuple[str, Any] | None = None

    def holds(self, values: Mapping[str, Any]) -> bool:
        """True when its condition does, given all settings' values."""
        return self.when is None or values.get(self.when[0]) == scalar(self.when[1])

    def suggest(self, trial: Trial) -> Any:
        name, distribution = self.name, self.distribution
        if isinstance(distribution, CategoricalDistribution):
            return trial.suggest_categorical(name, distribution.choices)
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        low, high, step, log = distribution.low, distribution.high, distribution.step, distribution.log
        if isinstance(distribution, IntDistribution):
            return trial.suggest_int(name, int(low), int(high), step=int(step or 1), log=log)
        return trial.suggest_float(name, low, high, step=step, log=log)

    @property
    def is_choice(self) -> bool:
        return isinstance(self.distribution, CategoricalDistribution)

    @property
    def extremes(self) -> list[Any]:
        """Values that the recipe's validation must accept: both ends, or every choice."""
        if isinstance(self.distribution, CategoricalDistribution):
            return list(self.distribution.choices)
        assert isinstance(self.distribution, FloatDistribution | IntDistribution)
        return [self.distribution.low, self.distribution.high]


def read_parameter(name: str, form: Any, flat: Mapping[str, Any]) -> Parameter | str:
    """One entry of a space, or what is allowed instead. flat: the recipe's own settings."""
    if reason := _refused(name, form, flat):
        return reason
    kind = _kind(form)
    assert kind is not None
    if others := sorted(map(str, form.keys() - set(_KEYS[kind]))):
        return f"{others[0]!r} is unknown beside {kind}; there are {', '.join(_KEYS[kind])}"
    when = _condition(form.get("when"), flat)
    if isinstance(when, str):
        return when
    distribution = _choices(form["choices"], flat[name]) if kind == "choices" else _range(form, flat[name])
    if isinstance(distribution, str):
        return distribution
    return Parameter(name, distribution, scalar(flat[name]), when)


def _refused(name: str, form: Any, flat: Mapping[str, Any]) -> str:
    """Why the setting cannot be searched like this; empty when it can."""
    if name in _REFUSED:
        return _REFUSED[name]
    if name in RUNTIME:
        return "it cannot change a result; set it with --set"
    if name not in flat:
        inner = [own for own in flat if own.startswith(f"{name}.")]
        near = get_close_matches(name, flat, n=1, cutoff=0.5)
        if inner:
            return f"it holds further settings; name one of them, as {inner[0]}"
        return f"no such setting; did you mean {near[0]!r}?" if near else "there is no such setting"
    return "" if _kind(form) else f"write {FORMS}"


def _kind(form: Any) -> str | None:
    return next((key for key in _KEYS if isinstance(form, dict) and key in form), None)


def _choices(choices: Any, own: Any) -> CategoricalDistribution | str:
    if not isinstance(choices, list) or len(choices) < 2:
        return "choices must be a list of two or more"
    if not all(isinstance(choice, str | bool | int | float | list | None) for choice in choices):
        return "choices must be words, numbers, true, false, null or lists of these"
    try:
        scalars = [scalar(choice) for choice in choices]
    except TypeError:  # a list of something else
        return "choices must be words, numbers, true, false, null or lists of these"
    if len(set(map(repr, scalars))) < len(scalars):
        return "choices must differ"
    if not any(choice == scalar(own) and type(choice) is type(scalar(own)) for choice in scalars):
        return f"choices leave out the recipe's own {own!r}, which is the first trial; add it"
    return CategoricalDistribution(scalars)


def scalar(value: Any) -> Any:
    """A value as Optuna has it: lists are text."""
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
        if not (_is_number(low) and _is_number(high)):
            return "times leads beyond what numbers can hold"
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
        return _whole(low, high, own, log=log, step=step)
    if step is not None and not (_divides(step, high - low) and _divides(step, own - low)):
        return f"step {step:g} must lead from {low:g} to {high:g}, and to the recipe's own {own:g}"
    if not low <= own <= high:
        return _left_out(low, high, own)
    return FloatDistribution(float(low), float(high), log, step)


def _whole(low: float, high: float, own: int, *, log: bool, step: Any) -> IntDistribution | str:
    first, last = math.ceil(low), math.floor(high)
    step = 1 if step is None else step
    if first >= last:
        return f"{low:g} to {high:g} holds no two whole numbers"
    if not isinstance(step, int):
        return f"step must be a whole number, as {own} is"
    if (last - first) % step or (own - first) % step:
        return f"step {step} must lead from {first} to {last}, and to the recipe's own {own}"
    return IntDistribution(first, last, log, step) if first <= own <= last else _left_out(first, last, own)


def _left_out(low: float, high: float, own: float) -> str:
    return f"{low:g} to {high:g} leaves out the recipe's own {own:g}, which is the first trial; widen it"


def _divides(step: float, length: float) -> bool:
    times = length / step
    return abs(times) < _LARGEST and math.isclose(times, round(times), abs_tol=1e-9)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST


def _condition(when: Any, flat: Mapping[str, Any]) -> tuple[str, Any] | str | None:
    if when is None:
        return None
    if not isinstance(when, dict) or len(when) != 1:
        return "when must name one setting and its value, as {stage2.objective: dat}"
    [(name, value)] = when.items()
    if name not in flat:
        return f"when: there is no setting {name!r}"
    return (name, value)
