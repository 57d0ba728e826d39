"""What a sweep leaves behind: recipes of its best trials, tables, pictures, one JSON object."""

import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial, TrialState

from pipelines.files import write_text
from pipelines.number_text import shown
from pipelines.recipe import Recipe
from pipelines.terminal import Terminal
from sweeps.ranking import Spread, rank_correlations
from sweeps.sweep import Sweep

Importances = Mapping[str, Mapping[str, float]]  # by objective and parameter
BEST_FILE, TRIALS_FILE, FRONT_FOLDER = "best.yaml", "trials.json", "front"
_SMOKE = "found by a smoke run: none of its figures is a result"
_TRUSTED = 0.5  # rank correlation, below which rungs end the wrong trials
_STATES = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "ended early",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "to be run",
    TrialState.RUNNING: "running",
}


def write_recipes(sweep: Sweep, folder: Path) -> Path | None:
    """The best trial's recipe, and with several objectives one for each member of the front.

    Returns the first; None while no trial is measured in full.
    """
    best = sweep.best()
    if best is None:
        return None
    if len(sweep.study.objectives) > 1:
        front = sweep.order()
        (folder / FRONT_FOLDER).mkdir(exist_ok=True)
        for number in front:
            write_text(folder / FRONT_FOLDER / f"trial-{number}.yaml", _recipe_text(sweep, number))
        for old in (folder / FRONT_FOLDER).glob("trial-*.yaml"):
            if int(old.stem.removeprefix("trial-")) not in front:
                old.unlink()
    write_text(folder / BEST_FILE, _recipe_text(sweep, best))
    return folder / BEST_FILE


def publish_best(best: Path, workdir: Path) -> Path:
    """The winner of the latest sweep, where one looks first; a smoke sweep's replaces no real one."""
    text, published = best.read_text(encoding="utf-8"), workdir / BEST_FILE
    if _SMOKE in text and published.exists() and _SMOKE not in published.read_text(encoding="utf-8"):
        return best
    write_text(published, text)
    return published


def what_mattered(sweep: Sweep) -> Importances:
    from sweeps.figures import importances  # takes seconds to import

    return importances(sweep.search.study, sweep.study.objectives)


def write_pictures(sweep: Sweep, mattered: Importances, folder: Path) -> list[Path]:
    from sweeps.figures import draw

    study, objectives = sweep.search.study, sweep.study.objectives
    return draw(study, objectives, sweep.points(), sweep.order(), mattered, folder / "figures")


def trial_rows(sweep: Sweep) -> list[dict[str, Any]]:
    """Each trial as `--json` gives it."""
    return [
        {
            "number": trial.number,
            "state": _STATES[trial.state],
            "values": _values(sweep, trial),
            "params": trial.params,
            "cause": trial.user_attrs.get("cause") if trial.state == TrialState.FAIL else None,
            "run_id": sweep.real(trial.user_attrs.get("run_id")),
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
    return {o.label: value for o, value in zip(sweep.study.objectives, trial.values, strict=True)}


def executions(sweep: Sweep) -> Counter[str]:
    """How often each node was run, over all trials, rungs and repeats."""
    facts: list[Mapping[str, Any]] = [trial.user_attrs for trial in sweep.search.trials]
    facts += [f for t in sweep.search.trials for f in sweep.search.repeats(t.number).values()]
    return Counter(name for own in facts for name in own.get("executed", []))


def say_results(sweep: Sweep, mattered: Importances, terminal: Terminal) -> None:
    """The front, repeats over seeds, what mattered, how far rungs are to be trusted."""
    objectives, points = sweep.study.objectives, sweep.points()
    states = Counter(_STATES[trial.state] for trial in sweep.search.trials)
    states["not begun"] = max(0, sweep.search.num_trials - states.total())
    terminal.say(f"trials     {', '.join(f'{count} {state}' for state, count in states.items() if count)}")
    if numbers := _shown(sweep):
        header = ("trial", *(o.label for o in objectives), "settings")
        terminal.rows(header, [_row(sweep, number) for number in numbers])
        if hidden := len(points) - len(numbers):
            terminal.say(f"{hidden} more measured in full, each outdone by one of these: see {TRIALS_FILE}")
    if spreads := sweep.spreads():
        header = (
            "trial",
            *(f"{o.label}, mean ± deviation over {spreads[0].num_seeds} seeds" for o in objectives),
        )
        terminal.rows(header, [(f"{own.number}", *_spread_cells(own)) for own in spreads])
    for line in remarks(sweep, mattered):
        terminal.say(line)


def _shown(sweep: Sweep) -> list[int]:
    """The front, and the recipe to compare with."""
    return list(dict.fromkeys([*sweep.order(), *(number for number in sweep.points() if number == 0)]))


def _spread_cells(own: Spread) -> list[str]:
    assert own.std is not None  # there are two seeds or more
    return [f"{shown(mean)} ± {shown(std)}" for mean, std in zip(own.mean, own.std, strict=True)]


def remarks(sweep: Sweep, mattered: Importances) -> Iterator[str]:
    """What a reader should know before using the winner."""
    ran = executions(sweep)
    num = len(sweep.search.trials)
    counted = ", ".join(f"{name} {count}" for name, count in sorted(ran.items()))
    yield f"executed   {sum(ran.values())} stages for {num} trials{': ' * bool(ran)}{counted}"
    for metric, own in mattered.items():
        listed = ", ".join(f"{name} {share:.2f}" for name, share in list(own.items())[:3])
        yield f"mattered   for {metric}: {listed}"
    if not mattered and sweep.points():
        yield "mattered   unknown: it takes 4 trials that were measured in full and differ"
    if sweep.search.first is None and sweep.points():
        yield "beware     the recipe itself is not measured: the best of these may be worse than it"
    if len(sweep.study.objectives) == 1 and sweep.study.looks:
        yield from _trust(sweep)


def _trust(sweep: Sweep) -> Iterator[str]:
    found = rank_correlations(sweep.search.trials)
    for step, (rho, num) in found.items():
        verdict = "" if rho >= _TRUSTED else "; rungs there end the wrong trials, start them later"
        yield f"rungs      after {step} steps: rank correlation {rho:.2f} with {num} full figures{verdict}"
    if not found:
        yield "rungs      too few trials were measured in full to tell whether rungs judge well"


def say_where(terminal: Terminal, sweep: Sweep, best: Path | None, folder: Path, storage: str) -> None:
    if best is not None:
        smoke = " --smoke" * sweep.study.smoke
        command = f"python pipelines/run.py --pipeline {shlex.quote(str(best))}{smoke}"
        terminal.say(f"best       {best}; to run it: {command}")
        if len(sweep.study.objectives) > 1:
            terminal.say(f"front      {folder / FRONT_FOLDER}")
        terminal.say(f"pictures   {folder / 'figures'}")
    terminal.say(f"study      {storage}")


def markdown(sweep: Sweep, mattered: Importances) -> str:
    """What the sweep's run shows first in MLflow."""
    objectives = sweep.study.objectives
    lines = [
        f"Objectives: {', '.join(map(str, objectives))}. The best trials, and trial 0, the recipe itself:"
    ]
    lines += _table(
        ["trial", *(o.label for o in objectives), "settings"], [_row(sweep, n) for n in _shown(sweep)]
    )
    if spreads := sweep.spreads():
        lines += ["", f"Over {spreads[0].num_seeds} seeds, the best first (mean ± standard deviation):"]
        rows = [(f"{own.number}", *_spread_cells(own)) for own in spreads]
        lines += _table(["trial", *(o.label for o in objectives)], rows)
    return "\n".join([*lines, "", *(f"- {line}" for line in remarks(sweep, mattered))])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [header, ["---"] * len(header), *rows]
    return ["", *(f"| {' | '.join(row)} |" for row in cells)]


def write_trials(sweep: Sweep, folder: Path) -> Path:
    path = folder / TRIALS_FILE
    write_text(path, json.dumps(trial_rows(sweep), indent=1) + "\n")
    return path


def print_json(
    name: str | None,
    run_id: str | None,
    status: str,
    sweep: Sweep | None,
    best: Path | None,
    errors: list[str] | None = None,
    undelivered: int = 0,
) -> None:
    """The last line of stdout under `--json`. undelivered: records that MLflow has not got."""
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
    if undelivered:
        result["undelivered"] = undelivered
    sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")


def _row(sweep: Sweep, number: int) -> tuple[str, ...]:
    trial = sweep.search.trials[number]
    values = [shown(value) for value in trial.values]
    return (
        f"{number}",
        *values,
        "the recipe itself" if number == 0 else sweep.study.space.told(trial.params),
    )


def _recipe_text(sweep: Sweep, number: int) -> str:
    trial = sweep.search.trials[number]
    recipe, _ = sweep.study.at(trial.params)
    told = ", ".join(f"{name} {shown(value)}" for name, value in _values(sweep, trial).items())
    which = f"trial {number} of {sweep.search.num_trials} over {sweep.study.recipe.name}"
    lines = [f"{sweep.search.name}: {which}: {told}"]
    if own := next((own for own in sweep.spreads() if own.number == number), None):
        names = (objective.label for objective in sweep.study.objectives)
        pairs = zip(names, _spread_cells(own), strict=True)
        lines.append(f"over {own.num_seeds} seeds: {', '.join(f'{name} {cell}' for name, cell in pairs)}")
    if sweep.study.smoke:
        lines.append(_SMOKE)
    if sweep.search.first is None:
        lines.append("the recipe itself was not measured by then: this may be worse than it")
    lines += [f"{key}={value}" for key, value in trial.params.items()]
    lines += ["", f"command    python pipelines/run.py --pipeline THIS_FILE{' --smoke' * sweep.study.smoke}"]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines) + _yaml(recipe)


def _yaml(recipe: Recipe) -> str:
    values = recipe.settings.model_dump(by_alias=True, mode="json")
    values["data"]["root"] = str(Path(values["data"]["root"]).resolve())  # runs from any folder
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
