"""What a comparison of finished runs is: columns over seeds, figures of one protocol, refusals."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any
from zlib import crc32

from pipelines.number_text import MAIN_METRICS, shown
from pipelines.paired import Paired, paired_difference
from pipelines.problems import Problem
from pipelines.tracking.run_archive import PastRun

_TITLE_SETTINGS = 3  # more of them make no title
_VALUE_LENGTH = 48
_DIGEST_LENGTH = 12

Differences = dict[str, dict[str, Any]]  # {protocol key: {run id: value}}; null where a run has no such key


@dataclass(frozen=True)
class Figure:
    """A metric over one column's runs; `std` is the sample standard deviation, None for a single run."""

    mean: float
    std: float | None
    num: int

    def text(self, num_runs: int) -> str:
        spread = "" if self.std is None else f" ± {shown(self.std)}"
        return shown(self.mean) + spread + (f" ({self.num} of {num_runs})" if self.num < num_runs else "")


@dataclass(frozen=True)
class Column:
    title: str
    runs: tuple[PastRun, ...]


@dataclass(frozen=True)
class Comparison:
    """`refused`: metrics without a figure, and where their protocols differ; `allowed`: where they may.

    `paired`: of accuracies on the same images, each column's less the first's.
    """

    columns: list[Column] = field(default_factory=list)
    figures: dict[str, list[Figure | None]] = field(default_factory=dict)
    refused: dict[str, Differences] = field(default_factory=dict)
    allowed: dict[str, Differences] = field(default_factory=dict)
    differing: dict[str, list[str | None]] = field(default_factory=dict)
    paired: dict[str, list[Paired]] = field(default_factory=dict)

    def telling(self) -> list[str]:
        """The main metrics, and of the others those that are not the same in all columns."""
        return [
            name
            for name, (first, *others) in self.figures.items()
            if name in MAIN_METRICS
            or name in self.refused
            or any(own != first for own in others)
            or not others
        ]

    def errors(self) -> list[str]:
        """One line for each set of differences that refuses metrics."""
        runs = [run for column in self.columns for run in column.runs]
        return [
            str(Problem(", ".join(names), f"measured under different protocols: {told}", _remedy(keys)))
            for told, (names, keys) in gathered(self.refused, runs).items()
        ]


def compared(runs: Sequence[PastRun], only: Collection[str] = (), allow: Collection[str] = ()) -> Comparison:
    """Columns, figures and refusals; `only` restricts the metrics, `allow` leaves out keys of protocols."""
    groups = grouped(runs)
    differing = differing_settings(groups)
    columns = [Column(*pair) for pair in zip(titles(groups, differing), groups, strict=True)]
    comparison = Comparison(columns, differing=differing)
    for name in ordered_metrics(runs):
        if only and name not in only:
            continue
        differences = protocol_differences(name, runs)
        refused = {key: values for key, values in differences.items() if key not in allow}
        if refused:
            comparison.refused[name] = refused
        elif differences:
            comparison.allowed[name] = differences
        elif paired := paired_with_first(name, groups):
            comparison.paired[name] = paired
        comparison.figures[name] = [None if refused else figure(name, group) for group in groups]
    return comparison


def grouped(runs: Iterable[PastRun]) -> list[tuple[PastRun, ...]]:
    """Runs whose settings are equal but for `seed`, together; groups in the order of their first runs."""
    groups: dict[frozenset[tuple[str, str]], list[PastRun]] = {}
    for run in runs:
        settings = frozenset((key, value) for key, value in run.params.items() if key != "seed")
        groups.setdefault(settings, []).append(run)
    return [tuple(group) for group in groups.values()]


def differing_settings(groups: Sequence[Sequence[PastRun]]) -> dict[str, list[str | None]]:
    """Each setting that is not the same in all groups, with its value in each; None where there is none."""
    names = sorted({name for group in groups for name in group[0].params} - {"seed"})
    values = {name: [group[0].params.get(name) for group in groups] for name in names}
    return {name: row for name, row in values.items() if len(set(row)) > 1}


def titles(groups: Sequence[Sequence[PastRun]], differing: Mapping[str, Sequence[str | None]]) -> list[str]:
    """What tells each group from the others: its recipe and settings, or a run of it if these are many."""
    if len(groups) == 1:
        return [counted(groups[0])]
    recipes = [", ".join(dict.fromkeys(run.recipe for run in group)) for group in groups]
    several = len(set(recipes)) > 1
    columns = []
    for index, group in enumerate(groups):
        parts = [_setting(name, row[index]) for name, row in differing.items()]
        parts = parts if len(parts) <= _TITLE_SETTINGS else [group[0].label]
        columns.append(", ".join([recipes[index]] * several + parts))
    return columns


def _setting(name: str, value: str | None) -> str:
    return f"{name} not set" if value is None else f"{name}={value}"


def counted(runs: Sequence[PastRun]) -> str:
    """'3 seeds', and the number of runs where it is another."""
    seeds = len({run.seed for run in runs})
    text = f"{seeds} seed" + "s" * (seeds > 1)
    return text if seeds == len(runs) else f"{len(runs)} runs, {text}"


def repeats(runs: Sequence[PastRun]) -> list[tuple[PastRun, ...]]:
    """Runs that have the seed in common too: one configuration, run again."""
    times = Counter(run.seed for run in runs)
    return [tuple(run for run in runs if run.seed == seed) for seed, num in times.items() if num > 1]


def unlike(runs: Sequence[PastRun]) -> list[str]:
    """The commits that runs of equal settings were made by, where they are several."""
    commits = {run.tags.get("git.commit", "unknown")[:_DIGEST_LENGTH] for run in runs}
    return sorted(commits) if len(commits) > 1 else []


def figure(name: str, runs: Iterable[PastRun]) -> Figure | None:
    """A metric's mean and sample standard deviation over the runs that have it; None when none has."""
    values = [run.metrics[name] for run in runs if name in run.metrics]
    if not values:
        return None
    return Figure(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def paired_with_first(name: str, groups: Sequence[Sequence[PastRun]]) -> list[Paired]:
    """Each group's accuracy less the first's, image by image; none where a run tells none of its."""
    outcomes = [[run.outcomes.get(name, "") for run in group] for group in groups]
    if len({len(own) for group in outcomes for own in group}) > 1 or not outcomes[0][0]:
        return []
    return [paired_difference(own, outcomes[0]) for own in outcomes[1:]]


def ordered_metrics(runs: Iterable[PastRun]) -> list[str]:
    """Every metric that some run has: the main ones in their order, then the others by name."""
    names = {name for run in runs for name in run.metrics}
    return [name for name in MAIN_METRICS if name in names] + sorted(names - set(MAIN_METRICS))


def protocol_differences(name: str, runs: Iterable[PastRun]) -> Differences:
    """Where the runs that have a metric did not measure it alike; a key that is absent counts as null."""
    protocols = {run.run_id: (run.protocols or {}).get(name, {}) for run in runs if name in run.metrics}
    found = {}
    for key in sorted({key for protocol in protocols.values() for key in protocol}):
        values = {run_id: protocol.get(key) for run_id, protocol in protocols.items()}
        if len(_distinct(values.items())) > 1:
            found[key] = values
    return found


def _distinct(pairs: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The first pair of each value; a value may be a list."""
    first: list[tuple[str, Any]] = []
    for name, value in pairs:
        if all(value != seen for _, seen in first):
            first.append((name, value))
    return first


def gathered(
    metrics: Mapping[str, Differences], runs: Iterable[PastRun]
) -> dict[str, tuple[list[str], list[str]]]:
    """Each set of differences in words, with the metrics that have it and its keys."""
    labels = {run.run_id: run.label for run in runs}
    gathered: dict[str, tuple[list[str], list[str]]] = {}
    for name, differences in metrics.items():
        told = ", ".join(_told(key, values, labels) for key, values in differences.items())
        gathered.setdefault(told, ([], list(differences)))[0].append(name)
    return gathered


def _told(key: str, values: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    *others, last = [f"{_brief(value)} in {labels[run_id]}" for run_id, value in _distinct(values.items())]
    return f"{key} is {', '.join(others)} and {last}"


def _brief(value: Any) -> str:
    """A protocol's value in a few characters; different values stay different."""
    if value is None:
        return "not set"
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) <= _VALUE_LENGTH:
        return text
    if set(text) <= set("0123456789abcdef"):
        return f"{text[:_DIGEST_LENGTH]}..."
    return f"{text[:_VALUE_LENGTH]}... (crc32 {crc32(text.encode()):08x})"


def _remedy(keys: Iterable[str]) -> str:
    options = " ".join(f"--allow {key}" for key in keys)
    return f"compare runs of one protocol, or {options} if that is what you compare"
