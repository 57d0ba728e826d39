"""What a recipe consists of: `python -m pipelines dag`. From its settings alone: no Ray, no MLflow."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.commands.status import StageStatus, stage_statuses
from pipelines.files import write_text
from pipelines.graph import Node
from pipelines.graph_picture import draw_graph
from pipelines.plan import Plan, make_plan
from pipelines.problems import BadInput, Problem
from pipelines.recipe import load_recipe, shipped_recipes
from pipelines.terminal import Terminal
from pipelines.workdir.opening import open_store, readable

_SETS = typer.Option("--set", metavar="KEY.PATH=VALUE", help="override one setting; may be repeated")


def dag(
    pipeline: Annotated[
        str, typer.Option(help=f"a recipe ({', '.join(shipped_recipes())}) or a path to a .yaml file")
    ],
    set_: Annotated[list[str] | None, _SETS] = None,
    out: Annotated[
        str | None, typer.Option(metavar="FILE.svg", help="draw the graph as well, into this file")
    ] = None,
    workdir: Annotated[str, typer.Option(metavar="DIR_OR_URI", help="where its artifacts lie")] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="end stdout with one JSON object")] = False,
) -> int:
    """Show a recipe's graph: what each stage needs, which settings it reads, what of it is finished.

    A name with a dot is a part of a stage: `sample.stage1` samples stage 1's model,
    `evaluate_classifier.plain` measures the non-robust twin. Only a change in what a node needs or reads
    makes it run again; --json lists each setting.

    \b
    Examples:
      dag --pipeline digits                  the graph as a table
      dag --pipeline digits --out dag.svg    and as a picture
    """
    store = open_store(workdir)
    recipe, problems = load_recipe(pipeline, set_ or ())
    if out is not None and not out.endswith(".svg"):
        problems.append(Problem("--out", repr(out), "must end with .svg"))
    if problems:
        raise BadInput(problems)
    with readable(store):
        store = store.glance()
        plan = make_plan(recipe.settings, store)
        statuses = stage_statuses(plan, store)
    terminal = Terminal(to_stderr=as_json)
    rows = [
        (name, statuses[name].state, *_words(step.node, len(plan.steps) - 1))
        for name, step in plan.steps.items()
    ]
    terminal.rows(("node", "is", "needs", "reads"), rows)
    if out is not None:
        _draw(plan, statuses, Path(out))
        terminal.say(f"picture    {out}")
    if as_json:
        sys.stdout.write(json.dumps({"pipeline": recipe.name, "nodes": _nodes(plan, statuses)}) + "\n")
    return 0


def _words(node: Node, others: int) -> tuple[str, str]:
    """What it needs and the sections of what it reads."""
    needs = dict.fromkeys(node.needs.values())
    sections = dict.fromkeys(name.partition(".")[0] for name in node.reads)
    return ", ".join(needs) if len(needs) < others else "all above", ", ".join(sections)


def _draw(plan: Plan, statuses: dict[str, StageStatus], out: Path) -> None:
    needs = {name: sorted(set(step.node.needs.values())) for name, step in plan.steps.items()}
    notes = {name: status.state for name, status in statuses.items()}
    try:
        write_text(out, draw_graph(needs, notes, alone=True))
    except OSError as error:
        raise BadInput([Problem("--out", str(out), f"cannot be written: {error.strerror}")]) from error


def _nodes(plan: Plan, statuses: dict[str, StageStatus]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "stage": step.node.stage,
            "needs": dict(step.node.needs),
            "reads": list(step.node.reads),
            "state": statuses[name].state,
            "fingerprint": step.fingerprint,
        }
        for name, step in plan.steps.items()
    ]
