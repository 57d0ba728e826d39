"""What is finished, what is not, and the command that goes on: from the workdir alone, no Ray, no MLflow."""

from dataclasses import dataclass

from pipelines.plan import Plan, Step, last_step
from pipelines.terminal import Terminal
from pipelines.workdir.store import Store


@dataclass(frozen=True)
class StageStatus:
    """`state`: finished, unfinished (has a checkpoint), failed, running or not run."""

    state: str
    reason: str
    checkpoint_step: int | None


def stage_statuses(plan: Plan, store: Store) -> dict[str, StageStatus]:
    """Of every node, by name. Nodes that are being computed by another process now say so."""
    busy = store.holder() is not None
    return {name: _status(step, store, busy=busy) for name, step in plan.steps.items()}


def show_statuses(statuses: dict[str, StageStatus], store: Store, terminal: Terminal, command: str) -> None:
    rows = [
        (name, status.state, _step(status.checkpoint_step), status.reason)
        for name, status in statuses.items()
    ]
    terminal.rows(("stage", "is", "last checkpoint", "why"), rows)
    if process := store.holder():
        terminal.say(f"a run (process {process}) works in this workdir now")
    elif all(status.state == "finished" for status in statuses.values()):
        terminal.say(f"everything is finished; the metrics again: {command}")
    else:
        terminal.say(f"to go on: {command}")


def _step(step: int | None) -> str:
    return "" if step is None else f"step {step}"


def _status(step: Step, store: Store, *, busy: bool) -> StageStatus:
    if step.action == "cached":
        state = "finished"
    elif step.fingerprint is not None and store.failure(step.node.stage, step.fingerprint):
        state = "failed"
    else:
        state = {"resume": "unfinished", "run": "not run"}.get(step.action, step.action)
    checkpoint = None
    if step.fingerprint is not None and step.key is not None:
        saved = store.steps(step.node.stage, step.key, last_step(step.identity))
        checkpoint = saved[-1] if saved else None
        drafts = (store.workdir / "artifacts" / step.node.stage).glob(f".{step.fingerprint}.*")
        if busy and state != "finished" and any(drafts):
            state = "running"
    return StageStatus(state, step.reason, checkpoint)
