"""Finished runs side by side: seeds gathered, settings that differ, figures of one protocol only."""

import json
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from statistics import fmean, stdev
from typing import Annotated, Any
from zlib import crc32

import typer

from pipelines.number_text import MAIN_METRICS, shown
from pipelines.problems import BadInput, Problem
from pipelines.run_archive import PastRun, find_runs, store_address
from pipelines.terminal import Terminal
from pipelines.usage import BAD_INPUT

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
    """`refused`: metrics without a figure, and where their protocols differ; `allowed`: where they may."""

    columns: list[Column] = field(default_factory=list)
    figures: dict[str, list[Figure | None]] = field(default_factory=dict)
    refused: dict[str, Differences] = field(default_factory=dict)
    allowed: dict[str, Differences] = field(default_factory=dict)
    differing: dict[str, list[str | None]] = field(default_factory=dict)

    def errors(self) -> list[str]:
        """One line for each set of differences that refuses metrics."""
        runs = [run for column in self.columns for run in column.runs]
        return [
            str(Problem(", ".join(names), f"measured under different protocols: {told}", _remedy(keys)))
            for told, (names, keys) in _gathered(self.refused, runs).items()
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


def figure(name: str, runs: Iterable[PastRun]) -> Figure | None:
    """A metric's mean and sample standard deviation over the runs that have it; None when none has."""
    values = [run.metrics[name] for run in runs if name in run.metrics]
    if not values:
        return None
    return Figure(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


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


def _gathered(
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


def unusable(runs: Sequence[PastRun], only: Iterable[str], allow: Iterable[str]) -> Iterator[Problem]:
    """Runs that do not say how they were measured, and options that name nothing that these runs have."""
    for run in runs:
        if run.protocols is None:
            given = f"{run.label} has no protocols.json to say how its figures were measured"
            again = "run its pipeline command again: finished stages are reused, their figures logged anew"
            yield Problem("RUN", given, again)
    metrics = ordered_metrics(runs)
    yield from (_unknown("--metric", name, metrics) for name in only if name not in metrics)
    keys = {key for run in runs for protocol in (run.protocols or {}).values() for key in protocol}
    yield from (_unknown("--allow", key, sorted(keys)) for key in allow if key not in keys)


def _unknown(option: str, given: str, known: Sequence[str]) -> Problem:
    near = get_close_matches(given, known, n=1, cutoff=0.4)
    allowed = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known) or 'none at all'}"
    return Problem(option, f"{given!r} is in none of these runs", allowed)


def show(comparison: Comparison, terminal: Terminal) -> None:
    """The table of figures, the settings that differ, the runs, and what to beware of."""
    columns = comparison.columns
    labels = _labels(comparison, terminal)
    rows = [("", *(counted(column.runs) for column in columns))] if len(columns) > 1 else []
    rows += [(name, *_cells(comparison, name)) for name in comparison.figures]
    terminal.rows(("metric", *labels), rows)
    terminal.say("")
    if comparison.differing:
        settings = comparison.differing.items()
        rows = [(name, *(value or "not set" for value in row)) for name, row in settings]
        terminal.rows(("setting", *labels), rows)
    else:
        terminal.say("the settings are the same in all runs but for the seed")
    terminal.say("")
    pairs = [(label, run) for label, column in zip(labels, columns, strict=True) for run in column.runs]
    runs = [(run.run_id[:8], str(run.seed), run.name, label) for label, run in pairs]
    terminal.rows(("run", "seed", "name", "column"), runs)
    for note in _notes(comparison, labels):
        terminal.say(f"beware: {note}", "yellow")


def _labels(comparison: Comparison, terminal: Terminal) -> list[str]:
    """Titles of the columns, or numbers where the screen is too narrow for titles; these then come first."""
    full = [column.title for column in comparison.columns]
    width = max(map(len, ("metric", *comparison.figures, *comparison.differing)))
    if not terminal.live or width + sum(len(title) + 2 for title in full) <= terminal.console.width:
        return full
    numbers = [f"({number})" for number in range(1, len(full) + 1)]
    for number, title in zip(numbers, full, strict=True):
        terminal.say(f"{number} {title}")
    return numbers


def _cells(comparison: Comparison, name: str) -> Iterator[str]:
    for column, own in zip(comparison.columns, comparison.figures[name], strict=True):
        if name in comparison.refused:
            yield "refused"
        else:
            yield own.text(len(column.runs)) if own else ""


def _notes(comparison: Comparison, labels: Sequence[str]) -> Iterator[str]:
    for label, column in zip(labels, comparison.columns, strict=True):
        for again in repeats(column.runs):
            listed = ", ".join(run.run_id[:8] for run in again)
            yield f"{label}: {listed} repeat one configuration, its seed {again[0].seed} too"
    runs = [run for column in comparison.columns for run in column.runs]
    for told, (names, _) in _gathered(comparison.allowed, runs).items():
        yield f"{', '.join(names)}: {told}; --allow lets it be"


def as_object(comparison: Comparison, errors: list[str]) -> dict[str, Any]:
    """The comparison as `--json` gives it."""
    columns = [
        {
            "title": column.title,
            "runs": [{"run_id": run.run_id, "name": run.name, "seed": run.seed} for run in column.runs],
        }
        for column in comparison.columns
    ]
    figures = comparison.figures.items()
    refused = comparison.refused.items()
    return {
        "columns": columns,
        "metrics": {name: [own and asdict(own) for own in row] for name, row in figures},
        "refused": {
            name: [{"key": key, "values": values} for key, values in differences.items()]
            for name, differences in refused
        },
        "differing": comparison.differing,
        "errors": errors,
    }


def _print(comparison: Comparison, errors: list[str]) -> None:
    sys.stdout.write(json.dumps(as_object(comparison, errors), allow_nan=False) + "\n")


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="ids, their first characters, or names")],
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="show this metric and no other; may be repeated"),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="what may differ in how a figure was measured; may be repeated"),
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(metavar="URI", help="MLflow tracking; default: WORKDIR/mlflow.db")
    ] = None,
    workdir: Annotated[str, typer.Option(metavar="DIR", help="where the runs were made")] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="end stdout with one JSON object")] = False,
) -> int:
    """Compare finished runs: settings that differ, and figures, mean ± standard deviation over seeds.

    Runs whose settings are equal but for the seed make one column. A figure that was not measured alike in
    all runs (other reference images, another attack) is refused: no number is shown for it.

    \b
    Examples:
      compare digits "digits stage2.contrastive.step_size=0.2"        two runs by their names
      compare 3f2a 91bc 77d0 --metric robust_accuracy --allow attack.eps
                                      three by their ids; what the attack may change is what is compared

    Exit codes: 0 done, 2 bad input, or a figure is refused.
    """
    only, allowed = metric or [], allow or []
    try:
        found = find_runs(store_address(workdir, tracking_uri), runs)
        if problems := list(unusable(found, only, allowed)):
            raise BadInput(problems)
    except BadInput as bad:
        if as_json:
            _print(Comparison(), [str(problem) for problem in bad.problems])
        raise
    comparison = compared(found, only, allowed)
    show(comparison, Terminal(to_stderr=as_json))
    errors = comparison.errors()
    for error in errors:
        typer.echo(error, err=True)
    if as_json:
        _print(comparison, errors)
    return BAD_INPUT if errors else 0
