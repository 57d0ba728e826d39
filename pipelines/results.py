"""How a run ended, for people and for programs."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.command_line import say_error
from data.redact import redact
from pipelines.plan import Plan, Step
from pipelines.terminal import Terminal
from pipelines.workdir.store import Store

if TYPE_CHECKING:
    from pipelines.runner import Outcome
    from pipelines.tracking.record import Recorder


def stage_row(step: Step, status: str, reason: str) -> dict[str, Any]:
    """A stage as `--json` gives it, without secrets; what only a run knows is null."""
    return {
        "name": step.node.name,
        "status": status,
        "reason": redact(reason),
        "fingerprint": step.fingerprint,
        "run_id": None,
        "seconds": None,
        "artifact": None,
    }


def stage_rows(plan: Plan, outcome: "Outcome", recorder: "Recorder", store: Store) -> list[dict[str, Any]]:
    """One row a stage: of its nodes, the worst status, the summed seconds, the main node's artifact."""
    rank = ["failed", "skipped", "resumed", "ran", "cached"]
    rows = []
    for stage, main in plan.steps.items():
        if not main.node.is_stage:
            continue
        names = [name for name, step in plan.steps.items() if step.node.stage == stage]
        status = {name: outcome.status.get(name, "skipped") for name in names}
        worst = min(names, key=lambda name: rank.index(status[name]))
        ran = [name for name in names if status[name] in ("ran", "resumed")]
        manifest = outcome.manifests.get(stage)
        rows.append(
            stage_row(main, status[worst], outcome.reason.get(worst, "interrupted"))
            | {
                "run_id": recorder.courier.real(
                    recorder.stage_runs.get(stage) or (manifest or {}).get("run_id")
                ),
                "seconds": round(sum(outcome.manifests[name]["seconds"] for name in ran), 1) if ran else None,
                "artifact": store.address(stage, str(main.fingerprint)) if manifest else None,
            }
        )
    return rows


def say_where(
    terminal: Terminal,
    store: Store,
    stages: list[dict[str, Any]],
    uri: str,
    recorder: "Recorder",
    failed: Mapping[str, str],
    status: str,
    again: str,
) -> None:
    for name, reason in failed.items():
        run_id = recorder.courier.real(recorder.stage_runs.get(name.split(".")[0], recorder.run_id))
        say_error(f"{name}: {reason}; MLflow run {run_id}; to go on: {again}")
    if status == "interrupted":
        terminal.say(redact(f"interrupted; nothing finished is lost. To go on: {again}"))
    terminal.say(f"artifacts  {store.place}/artifacts")
    files = (("model", "train_stage2", ""), ("samples", "sample", ""), ("report", "report", "report.html"))
    for label, stage, file in files:
        if artifact := next((row["artifact"] for row in stages if row["name"] == stage), None):
            terminal.say(f"{label:<11}{'/'.join(filter(None, (artifact, file)))}")
    terminal.say(redact(f"tracking   {uri}, run {recorder.run_id}"))
    if uri == f"sqlite:///{Path('runs').resolve() / 'mlflow.db'}":
        page = f"#/experiments/{recorder.tracker.experiment_id}/runs?workflowType=machine_learning"
        terminal.say(f"compare    python -m pipelines compare {recorder.run_id[:8]} RUN")
        terminal.say(f"           make ui, then http://127.0.0.1:5000/{page}")


def print_json(
    pipeline: str,
    run_id: str | None,
    status: str,
    stages: list[dict[str, Any]],
    metrics: Mapping[str, float],
    errors: list[str] | None = None,
    undelivered: int = 0,
) -> None:
    """The last line of stdout under `--json`. undelivered: records that MLflow has not got."""
    result: dict[str, Any] = {
        "pipeline": pipeline,
        "run_id": run_id,
        "status": status,
        "stages": stages,
        "metrics": dict(metrics),
    }
    if errors is not None:
        result["errors"] = errors
    if undelivered:
        result["undelivered"] = undelivered
    sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
