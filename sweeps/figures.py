"""Pictures of a sweep: its front, what mattered, where its trials lay."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from optuna.exceptions import ExperimentalWarning
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sweeps.objectives import Objective

_FEWEST = 4  # finished trials, below which importances are noise
_RECIPE, _FRONT, _OTHER = "#d62728", "#1f77b4", "#9aa5b1"


def draw(
    study: Study,
    objectives: Sequence[Objective],
    points: Mapping[int, Sequence[float]],
    front: Sequence[int],
    mattered: Mapping[str, Mapping[str, float]],
    folder: Path,
) -> list[Path]:
    """Writes the pictures that the finished trials allow. mattered: `importances`. Returns their files."""
    matplotlib.use("agg")
    folder.mkdir(parents=True, exist_ok=True)
    pictures: list[tuple[str, Callable[[Path], None]]] = []
    if points:
        pictures.append(
            ("pareto_front", lambda path: _front(objectives, points, front, path))
            if len(objectives) > 1
            else ("history", lambda path: _history(study, objectives[0], path))
        )
    if len(points) > 1:
        pictures.append(("parallel_coordinates", lambda path: _parallel(study, objectives, front, path)))
    if mattered:
        pictures.append(("importances", lambda path: _importances(mattered, path)))
    files = []
    for name, picture in pictures:
        files.append(folder / f"{name}.png")
        picture(files[-1])
    return files


def importances(study: Study, objectives: Sequence[Objective]) -> dict[str, dict[str, float]]:
    """By objective: each parameter's share of what made the difference (fANOVA, Hutter et al. 2014)."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(trials) < _FEWEST:
        return {}
    found = {}
    for place, objective in enumerate(objectives):
        values = [trial.values[place] for trial in trials]
        if len(set(values)) > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                found[objective.label] = get_param_importances(
                    study, evaluator=FanovaImportanceEvaluator(seed=0), target=_value(place)
                )
    return {metric: own for metric, own in found.items() if own}


def _value(place: int) -> Callable[[FrozenTrial], float]:
    return lambda trial: float(trial.values[place])


def _front(
    objectives: Sequence[Objective], points: Mapping[int, Sequence[float]], front: Sequence[int], path: Path
) -> None:
    """The first two objectives; a trial a point, numbered on the front."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    members = sorted(front, key=lambda number: points[number][0])
    others = [number for number in points if number not in front]
    axes.scatter(*_columns(points, others), s=28, color=_OTHER, label="other trials")
    axes.plot(*_columns(points, members), color=_FRONT, linewidth=1, alpha=0.5)
    axes.scatter(*_columns(points, members), s=42, color=_FRONT, label="Pareto front", zorder=3)
    if 0 in points:
        axes.scatter(
            *_columns(points, [0]), s=120, marker="*", color=_RECIPE, label="the recipe itself", zorder=4
        )
    for number in members:
        axes.annotate(
            f"{number}",
            points[number][:2],
            xytext=(0, -16),
            textcoords="offset points",
            fontsize=8,
            ha="center",
        )
    x, y = _columns(points, list(points))
    axes.set_xlabel(_axis(objectives[0]))
    axes.set_ylabel(_axis(objectives[1]))
    _widen(axes.xaxis, x)
    _widen(axes.yaxis, y)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _history(study: Study, objective: Objective, path: Path) -> None:
    """Each trial's figure by its number, and the best so far."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    done = [(trial.number, trial.value) for trial in trials if trial.value is not None]
    best, steps = None, []
    for _, value in done:
        best = value if best is None or objective.no_worse(value, best) else best
        steps.append(best)
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    axes.scatter(*zip(*done, strict=True), s=28, color=_OTHER, label="measured in full")
    axes.step(
        [number for number, _ in done], steps, where="post", color=_FRONT, marker=".", label="best so far"
    )
    if done[0][0] == 0:
        axes.scatter(*done[0], s=120, marker="*", color=_RECIPE, label="the recipe itself", zorder=4)
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(_axis(objective))
    _widen(axes.yaxis, [value for _, value in done])
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _importances(found: Mapping[str, Mapping[str, float]], path: Path) -> None:
    from matplotlib import pyplot as plt

    names = sorted({name for own in found.values() for name in own})
    names.sort(key=lambda name: max(own.get(name, 0.0) for own in found.values()))
    height = 0.8 / len(found)
    figure, axes = plt.subplots(figsize=(6.4, 1.2 + 0.45 * len(names)), layout="constrained")
    for place, (metric, own) in enumerate(found.items()):
        where = [index + 0.4 - height * (place + 0.5) for index in range(len(names))]
        axes.barh(where, [own.get(name, 0.0) for name in names], height, label=metric)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("share of the differences (fANOVA)")
    axes.set_xlim(0, 1)
    axes.grid(axis="x", alpha=0.25)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _parallel(study: Study, objectives: Sequence[Objective], front: Sequence[int], path: Path) -> None:
    """A line a trial through its settings and figures, each axis scaled to what occurred."""
    from matplotlib import pyplot as plt

    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    names = sorted({name for trial in trials for name in trial.params})
    columns: list[tuple[str, list[Any], bool]] = []
    for name in names:
        values = [_named(trial.params[name]) if name in trial.params else None for trial in trials]
        columns.append((name, values, _is_log(trials, name)))
    for place, objective in enumerate(objectives):
        figures = [trial.values[place] for trial in trials]
        columns.append((_axis(objective), figures, _is_wide(figures)))
    figure, axes = plt.subplots(figsize=(1.5 * len(columns) + 1, 4.8), layout="constrained")
    heights = [_scaled(values, is_log=is_log) for _, values, is_log in columns]
    order = sorted(range(len(trials)), key=lambda row: trials[row].number in front)
    for row in order:
        number = trials[row].number
        colour = _RECIPE if number == 0 else _FRONT if number in front else _OTHER
        wide = 1.8 if number == 0 or number in front else 0.9
        line = [math.nan if own[row] is None else own[row] for own in heights]  # a gap where it has no value
        axes.plot(range(len(line)), line, marker=".", markersize=3, color=colour, linewidth=wide, alpha=0.9)
    for x, (_, values, _) in enumerate(columns):
        axes.axvline(x, color="#cfd6dd", linewidth=1, zorder=0)
        low, high = _ends(values)
        axes.text(x, -0.03, low, ha="center", va="top", fontsize=8)
        axes.text(x, 1.03, high, ha="center", va="bottom", fontsize=8)
    axes.set_xticks(
        range(len(columns)), [_broken(name) + "\n(log)" * is_log for name, _, is_log in columns], fontsize=8
    )
    axes.tick_params(axis="x", length=0, pad=14)
    axes.set_yticks([])
    axes.set_ylim(-0.02, 1.02)
    axes.spines[:].set_visible(False)
    numbers = {trial.number for trial in trials}
    shown = {
        "the recipe itself": (_RECIPE, 0 in numbers),
        "Pareto front" if len(objectives) > 1 else "the best": (_FRONT, bool(set(front) - {0})),
        "other trials": (_OTHER, bool(numbers - set(front) - {0})),
    }
    lines = {label: plt.Line2D([], [], color=colour) for label, (colour, there) in shown.items() if there}
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _columns(
    points: Mapping[int, Sequence[float]], numbers: Sequence[int]
) -> tuple[list[float], list[float]]:
    return [points[number][0] for number in numbers], [points[number][1] for number in numbers]


def _named(value: Any) -> Any:
    return "null" if value is None else value


def _axis(objective: Objective) -> str:
    return f"{objective.label} ({'higher' if objective.maximize else 'lower'} is better)"


def _is_log(trials: Sequence[Any], name: str) -> bool:
    return any(getattr(trial.distributions.get(name), "log", False) for trial in trials)


def _widen(axis: Any, figures: Sequence[float]) -> None:
    """Makes an axis logarithmic where figures are wide apart."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    if _is_wide(figures):
        getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())


def _is_wide(figures: Sequence[float]) -> bool:
    """Whether a few large figures would press all others into a corner."""
    return min(figures) > 0 and max(figures) >= 10 * min(figures)


def _scaled(values: Sequence[Any], *, is_log: bool) -> list[float | None]:
    """Values between 0 and 1; words by their order; None for a setting that the trial did not have."""
    known = [value for value in values if value is not None]
    if any(isinstance(value, str | bool) for value in known):
        words = sorted({str(value) for value in known})
        numbers: list[float | None] = [None if v is None else float(words.index(str(v))) for v in values]
    else:
        numbers = [None if v is None else math.log(v) if is_log else float(v) for v in values]
    present = [number for number in numbers if number is not None] or [0.0]
    low, span = min(present), max(present) - min(present)
    return [None if n is None else (n - low) / span if span else 0.5 for n in numbers]


def _ends(values: Sequence[Any]) -> tuple[str, str]:
    known = [value for value in values if value is not None]
    if not known or any(isinstance(value, str | bool) for value in known):
        words = sorted({str(value) for value in known}) or [""]
        return words[0], words[-1]
    return f"{min(known):.3g}", f"{max(known):.3g}"


def _broken(name: str) -> str:
    """A setting's name over several lines."""
    if " (" in name:
        return name.replace(" (", "\n(").replace(" is better", "\nis better")
    return name.replace(".", ".\n")
