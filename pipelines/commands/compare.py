"""Finished runs side by side: seeds gathered, settings that differ, figures of one protocol only."""

import json
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from typing import Annotated, Any

import typer

from data.visible import visible
from pipelines.comparison import Comparison, compared, counted, gathered, ordered_metrics, repeats, unlike
from pipelines.problems import BadInput, Problem
from pipelines.terminal import Terminal
from pipelines.tracking.run_archive import PastRun, find_runs, store_address
from pipelines.usage import BAD_INPUT


def unusable(runs: Sequence[PastRun], only: Iterable[str], allow: Iterable[str]) -> Iterator[Problem]:
    """Runs that do not say how they were measured, and options that name nothing that these runs have."""
    for run in runs:
        if run.protocols is None:
            given = f"{run.label} has no sound protocols.json to say how its figures were measured"
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


def show(comparison: Comparison, terminal: Terminal, names: Collection[str]) -> None:
    """The table of figures (of these names), the settings that differ, the runs, and what to beware of."""
    columns = comparison.columns
    labels = _labels(comparison, terminal)
    rows = [("", *(counted(column.runs) for column in columns))] if len(columns) > 1 else []
    rows += [(name, *_cells(comparison, name)) for name in names]
    terminal.rows(("metric", *labels), rows)
    if rest := len(comparison.figures) - len(names):
        terminal.say(f"the same in all: {rest} more (--json has them)")
    terminal.say("")
    if comparison.paired:
        rows = [
            (f"{name}, {own[0].num:,} images", *(each.text() for each in own))
            for name, own in comparison.paired.items()
            if name in names
        ]
        terminal.rows((f"difference from {labels[0]} (95 %)", *labels[1:]), rows)
        terminal.say("")
    if comparison.differing:
        settings = comparison.differing.items()
        rows = [(name, *(value or "not set" for value in row)) for name, row in settings]
        terminal.rows(("setting", *labels), rows)
    else:
        seeds = {run.seed for column in columns for run in column.runs}
        terminal.say("the settings are the same in all runs" + " but for the seed" * (len(seeds) > 1))
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
        if commits := unlike(column.runs):
            yield f"{label}: its runs were made by commits {', '.join(commits)}, not by seed alone"
    runs = [run for column in comparison.columns for run in column.runs]
    for name in dict.fromkeys(name for run in runs for name in run.outcomes):
        if lacking := [run.label for run in runs if name in run.metrics and name not in run.outcomes]:
            where = ", ".join(lacking)
            yield f"{name} is not compared image by image: no sound outcomes.json of it in {where}"
    for told, (names, _) in gathered(comparison.allowed, runs).items():
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
        "paired": {name: [asdict(each) for each in own] for name, own in comparison.paired.items()},
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
    all runs (other reference images, another attack) is refused: no number is shown for it. Accuracies are
    also compared image by image: the difference from the first column, and its 95 % interval over images.

    \b
    Examples:
      compare digits "digits stage2.contrastive.step_size=0.2"        two runs by their names
      compare 3f2a 91bc 77d0 --metric robust_accuracy --allow attack.eps
                                      three by their ids; what the attack may change is what is compared

    Exit codes: 0 done, 2 bad input, or a figure is refused.
    """
    only, allowed = list(dict.fromkeys(metric or [])), allow or []
    try:
        found = find_runs(store_address(workdir, tracking_uri), runs)
        if problems := list(unusable(found, only, allowed)):
            raise BadInput(problems)
    except BadInput as bad:
        if as_json:
            _print(Comparison(), [str(problem) for problem in bad.problems])
        raise
    comparison = compared(found, only, allowed)
    show(comparison, Terminal(to_stderr=as_json), only or comparison.telling())
    errors = comparison.errors()
    for error in errors:
        typer.echo(visible(error), err=True)
    if as_json:
        _print(comparison, errors)
    return BAD_INPUT if errors else 0
