"""What is finished, what is not, and the command that goes on."""

import json
import sys
from typing import Any

from pipelines.checkpoints import checkpoint_steps
from pipelines.plan import Plan, Step
from pipelines.recipe import Recipe
from pipelines.store import Store
from pipelines.terminal import Terminal


def show_status(
    recipe: Recipe, plan: Plan, store: Store, terminal: Terminal, command: str, as_json: bool
) -> int:
    """Prints one row a node, from the workdir alone: no Ray, no MLflow."""
    rows = [_row(step, store) for step in plan.steps.values()]
    terminal.rows(("stage", "is", "last checkpoint", "why"), [tuple(map(str, row.values())) for row in rows])
    unfinished = [row for row in rows if row["is"] != "finished"]
    if unfinished:
        terminal.say(f"to go on: {command.removesuffix(' --json')}")
    else:
        terminal.say("everything is finished; the same command shows the metrics again")
    if as_json:
        status = "unfinished" if unfinished else "done"
        sys.stdout.write(json.dumps({"pipeline": recipe.name, "status": status, "stages": rows}) + "\n")
    return 0


def _row(step: Step, store: Store) -> dict[str, Any]:
    checkpoint = ""
    if step.fingerprint is not None:
        found = checkpoint_steps(store.checkpoints(step.node.stage, step.fingerprint))
        checkpoint = f"step {found[-1][0]}" if found else ""
    state = {"cached": "finished", "resume": "unfinished", "run": "not run"}.get(step.action, step.action)
    return {"stage": step.node.name, "is": state, "last checkpoint": checkpoint, "why": step.reason}
