"""Which trials are best, over one or several objectives, and how far rungs may be trusted."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from optuna.trial import FrozenTrial, TrialState

from sweeps.objectives import Objective

Values = Sequence[float]
_FINALISTS = 3  # repeated over seeds, beside the recipe itself
_FEWEST = 4  # trials, below which a rank correlation says nothing


@dataclass(frozen=True)
class Spread:
    """A trial's objective values over seeds: means, and standard deviations where there are two or more."""

    number: int
    num_seeds: int
    mean: tuple[float, ...]
    std: tuple[float, ...] | None


def dominates(a: Values, b: Values, objectives: Sequence[Objective]) -> bool:
    """True when a is no worse than b in every objective and better in one."""
    pairs = list(zip(a, b, objectives, strict=True))
    return all(objective.no_worse(x, y) for x, y, objective in pairs) and tuple(a) != tuple(b)


def front(points: Mapping[int, Values], objectives: Sequence[Objective]) -> list[int]:
    """Numbers of the points that no other dominates, by the first objective; of equal points the first."""
    kept = [
        number
        for number, own in points.items()
        if not any(
            dominates(other, own, objectives) or (tuple(other) == tuple(own) and earlier < number)
            for earlier, other in points.items()
        )
    ]
    return sorted(kept, key=lambda number: (_cost(points[number], objectives)[0], number))


def ranked(points: Mapping[int, Values], objectives: Sequence[Objective], first: int | None) -> list[int]:
    """Points from the best on: those no worse than the recipe in any objective, then the others of the front.

    Among several objectives the nearest to the ideal comes first: each is scaled to the front's range.
    `first`: the recipe's own number, if it was measured.
    """
    members = front(points, objectives)
    costs = {number: _cost(points[number], objectives) for number in members}
    lows = [min(own) for own in zip(*costs.values(), strict=True)]
    spans = [max(own) - min(own) or 1.0 for own in zip(*costs.values(), strict=True)]

    def distance(number: int) -> float:
        return sum(
            ((cost - low) / span) ** 2 for cost, low, span in zip(costs[number], lows, spans, strict=True)
        )

    def loses(number: int) -> bool:
        return first is not None and not _no_worse(points[number], points[first], objectives)

    return sorted(members, key=lambda number: (loses(number), distance(number), number))


def finalists(points: Mapping[int, Values], objectives: Sequence[Objective], first: int | None) -> list[int]:
    """The recipe, and the best few, to be repeated over seeds: of the front, then of what the front hides."""
    best: list[int] = []
    while len(best) <= _FINALISTS and (left := {n: own for n, own in points.items() if n not in best}):
        best += ranked(left, objectives, first if first in left else None)
    chosen = [number for number in best if number != first][:_FINALISTS]
    return [*([] if first is None else [first]), *chosen]


def spread(number: int, values: Sequence[Values]) -> Spread:
    """values: one for each seed."""
    columns = list(zip(*values, strict=True))
    std = tuple(stdev(column) for column in columns) if len(values) > 1 else None
    return Spread(number, len(values), tuple(fmean(column) for column in columns), std)


def rank_correlations(trials: Iterable[FrozenTrial]) -> dict[int, tuple[float, int]]:
    """Spearman's rho of scores at each rung with full figures, and of how many trials, by training step.

    Of trials that were measured in full alone: of those that rungs ended, nobody knows. Too few give none.
    """
    from scipy.stats import spearmanr  # type: ignore[import-untyped]  # takes seconds to import

    pairs: dict[int, list[tuple[float, float]]] = {}
    for trial in trials:
        for step, score in trial.intermediate_values.items():
            if trial.state == TrialState.COMPLETE and trial.value is not None:
                pairs.setdefault(step, []).append((score, trial.value))
    found = {}
    for step, own in sorted(pairs.items()):
        scores, values = zip(*own, strict=True)
        if len(own) >= _FEWEST and len(set(scores)) > 1 and len(set(values)) > 1:
            found[step] = (float(spearmanr(scores, values).statistic), len(own))
    return found


def _cost(values: Values, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """Lower is better."""
    return tuple(
        -value if objective.maximize else value for value, objective in zip(values, objectives, strict=True)
    )


def _no_worse(a: Values, b: Values, objectives: Sequence[Objective]) -> bool:
    return all(objective.no_worse(x, y) for x, y, objective in zip(a, b, objectives, strict=True))
