"""What a sweep leaves behind: recipes of its best trials, tables, pictures, one JSON object."""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial, TrialState

from pipelines.number_text import shown
from pipelines.recipe import Recipe
from pipelines.terminal import Terminal
from sweeps.ranking import rank_correlations
from sweeps.sweep import Sweep

BEST_FILE, TRIALS_FILE, FRONT_FOLDER = "best.yaml", "trials.json", "front"
_TRUSTED = 0.5  # rank correlation, below which rungs end the wrong trials
_STATES = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "ended early",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "to be run",
    TrialState.RUNNING: "running",
}


def write_recipes(sweep: Sweep, name: str, folder: Path, workdir: Path) -> Path | None:
    """The best trial's recipe, here and in the workdir, and one for each member of the front.

    Returns the first; None while no trial is measured in full.
    """
    best = sweep.best()
    if best is None:
        return None
    front = sweep.order()
    (folder / FRONT_FOLDER).mkdir(exist_ok=True)
    for number in front:
        text = _recipe_text(sweep, name, number)
        _write(folder / FRONT_FOLDER / f"trial-{number}.yaml", text)
    for old in (folder / FRONT_FOLDER).glob("trial-*.yaml"):
        if int(old.stem.removeprefix("trial-")) not in front:
            old.unlink()
    text = _recipe_text(sweep, name, best)
    _write(folder / BEST_FILE, text)
    _write(workdir / BEST_FILE, text)
    return folder / BEST_FILE


def write_pictures(sweep: Sweep, folder: Path) -> list[Path]:
    from sweeps.figures import draw  # takes seconds to import

    return draw(sweep.search.study, sweep.study.objectives, sweep.points(), sweep.order(), folder / "figures")


def trial_rows(sweep: Sweep) -> list[dict[str, Any]]:
    """Each trial as `--json` gives it."""
    return [
        {
            "number": trial.number,
            "state": _STATES[trial.state],
            "values": _values(sweep, trial),
            "params": trial.params,
            "cause": trial.user_attrs.get("cause"),
            "run_id": trial.user_attrs.get("run_id"),
            "seconds": trial.user_attrs.get("seconds"),
            "rungs": {str(step): value for step, value in trial.intermediate_values.items()},
            "seeds": {str(seed): facts for seed, facts in sweep.search.repeats(trial.number).items()},
        }
        for trial in sweep.search.trials
    ]


def _values(sweep: Sweep, trial: FrozenTrial) -> dict[str, float]:
    """By objective; none for a trial that was not measured in full."""
    if trial.state != TrialState.COMPLETE:
        return {}
    return {o.metric: value for o, value in zip(sweep.study.objectives, trial.values, strict=True)}


def executions(sweep: Sweep) -> Counter[str]:
    """How often each node was run, over all trials, rungs and repeats."""
    facts: list[Mapping[str, Any]] = [trial.user_attrs for trial in sweep.search.trials]
    facts += [f for t in sweep.search.trials for f in sweep.search.repeats(t.number).values()]
    return Counter(name for own in facts for name in own.get("executed", []))


def say_results(sweep: Sweep, terminal: Terminal) -> None:
    """The front, repeats over seeds, what mattered, how far rungs are to be trusted."""
    objectives, points = sweep.study.objectives, sweep.points()
    states = Counter(_STATES[trial.state] for trial in sweep.search.trials)
    terminal.say(f"trials     {', '.join(f'{count} {state}' for state, count in states.items())}")
    numbers = list(dict.fromkeys([*sweep.order(), *(number for number in points if number == 0)]))
    if numbers:
        header = ("trial", *(o.metric for o in objectives), "settings")
        terminal.rows(header, [_row(sweep, number) for number in numbers])
    if spreads := sweep.spreads():
        header = ("trial", *(f"{o.metric}, mean over {sweep.num_seeds} seeds" for o in objectives))
        rows = [
            (f"{own.number}", *(f"{shown(m)} ± {shown(s)}" for m, s in zip(own.mean, own.std, strict=True)))
            for own in spreads
            if own.std
        ]
        terminal.rows(header, rows)
    for line in remarks(sweep):
        terminal.say(line)


def remarks(sweep: Sweep) -> Iterator[str]:
    """What a reader should know before using the winner."""
    from sweeps.figures import importances  # takes seconds to import

    ran = executions(sweep)
    num = len(sweep.search.trials)
    counted = ", ".join(f"{name} {count}" for name, count in sorted(ran.items()))
    yield f"executed   {sum(ran.values())} stages for {num} trials: {counted}"
    for metric, own in importances(sweep.search.study, sweep.study.objectives).items():
        listed = ", ".join(f"{name} {share:.2f}" for name, share in list(own.items())[:3])
        yield f"mattered   for {metric}: {listed}"
    if len(sweep.study.objectives) == 1 and sweep.study.looks:
        yield from _trust(sweep)


def _trust(sweep: Sweep) -> Iterator[str]:
    found = rank_correlations(sweep.search.trials)
    for step, (rho, num) in found.items():
        verdict = "" if rho >= _TRUSTED else "; rungs there end the wrong trials, start them later"
        yield f"rungs      after {step} steps: rank correlation {rho:.2f} with {num} full figures{verdict}"
    if not found:
        yield "rungs      too few trials were measured in full to tell whether rungs judge well"


def say_where(terminal: Terminal, best: Path | None, folder: Path, storage: str) -> None:
    if best is not None:
        terminal.say(f"best       {best}; to run it: python pipelines/run.py --pipeline {best}")
        terminal.say(f"front      {folder / FRONT_FOLDER}")
        terminal.say(f"pictures   {folder / 'figures'}")
    terminal.say(f"study      {storage}")


def markdown(sweep: Sweep) -> str:
    """What the sweep's run shows first in MLflow."""
    objectives = sweep.study.objectives
    numbers = list(dict.fromkeys([*sweep.order(), *(n for n in sweep.points() if n == 0)]))
    lines = [
        f"Objectives: {', '.join(map(str, objectives))}. The best trials, and trial 0, the recipe itself:"
    ]
    lines += ["", f"| trial | {' | '.join(o.metric for o in objectives)} | settings |"]
    lines += ["|" + "---|" * (len(objectives) + 2)]
    lines += ["| " + " | ".join(_row(sweep, number)) + " |" for number in numbers]
    return "\n".join([*lines, "", *(f"- {line}" for line in remarks(sweep))])


def write_trials(sweep: Sweep, folder: Path) -> Path:
    path = folder / TRIALS_FILE
    _write(path, json.dumps(trial_rows(sweep), indent=1) + "\n")
    return path


def print_json(
    name: str | None,
    run_id: str | None,
    status: str,
    sweep: Sweep | None,
    best: Path | None,
    errors: list[str] | None = None,
) -> None:
    """The last line of stdout under `--json`."""
    result: dict[str, Any] = {"sweep": name, "run_id": run_id, "status": status}
    if sweep is not None:
        result["smoke"] = sweep.study.smoke
        number = sweep.best()
        trials = trial_rows(sweep)
        result |= {
            "objectives": [str(objective) for objective in sweep.study.objectives],
            "trials": trials,
            "front": sweep.order(),
            "seeds": [vars(own) for own in sweep.spreads()],
            "best": None if number is None else trials[number] | {"recipe": str(best)},
            "executed": executions(sweep),
        }
    if errors is not None:
        result["errors"] = errors
    sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")


def _row(sweep: Sweep, number: int) -> tuple[str, ...]:
    trial = sweep.search.trials[number]
    values = [shown(value) for value in trial.values]
    return (
        f"{number}",
        *values,
        "the recipe itself" if number == 0 else sweep.study.space.told(trial.params),
    )


def _recipe_text(sweep: Sweep, name: str, number: int) -> str:
    trial = sweep.search.trials[number]
    recipe, _ = sweep.study.at(trial.params)
    figures = zip(sweep.study.objectives, trial.values, strict=True)
    told = ", ".join(f"{o.metric} {shown(value)}" for o, value in figures)
    lines = [f"{name}: trial {number} of {len(sweep.search.trials)} over {sweep.study.pipeline}: {told}"]
    if sweep.study.smoke:
        lines.append("found by a smoke run: none of its figures is a result")
    lines += [f"{key}={value}" for key, value in trial.params.items()]
    lines += ["", "command    python pipelines/run.py --pipeline best.yaml"]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines) + _yaml(recipe)


def _yaml(recipe: Recipe) -> str:
    values = recipe.settings.model_dump(by_alias=True, mode="json")
    values["data"]["root"] = str(Path(values["data"]["root"]).resolve())  # runs from any folder
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
