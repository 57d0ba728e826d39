"""One node from inputs to published artifact; runs as a Ray task."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pipelines.compute.channel import MailReporter
from pipelines.compute.spread import spread
from pipelines.compute.team import run_workers
from pipelines.context import Interrupted, StageContext, select
from pipelines.graph import Node
from pipelines.settings import Settings
from pipelines.workdir.store import Store


@dataclass(frozen=True)
class Task:
    """Everything a node's process needs; picklable."""

    node: Node
    fingerprint: str
    key: str
    identity: Mapping[str, Any]
    inputs: Mapping[str, Path]
    made_from: Mapping[str, str]  # the inputs' essences
    settings: Settings
    store: Store
    mailbox: Any
    run_id: str
    provenance: Mapping[str, str]
    memory: float = float("inf")  # bytes that an evaluation may take on a worker's device
    least_workers: int = 1  # that a training goes on with
    may_split: bool = False  # a training's micro-batches


def execute(task: Task) -> dict[str, Any]:
    """Runs the stage and publishes what it wrote. Returns the manifest, or {'interrupted': reason}.

    The manifest also holds the run's facts: metrics, absent metrics with reasons, protocol, seconds.
    """
    node, store = task.node, task.store.here()
    started = time.time()
    mirror = store.mirror(node.stage, task.key)
    mirror.pull()
    with store.new_artifact(node.stage, task.fingerprint) as draft:
        context = StageContext(
            settings=select(task.settings, node.reads),
            inputs=mirror.inputs(task.inputs),
            folder=draft.folder,
            checkpoints=store.checkpoints(node.stage, task.key),
            report=MailReporter(task.mailbox, node.name),
            sources=task.identity.get("sources") or {},
            run_workers=run_workers,
            spread=spread,
            trusted=node.trusted,
            mirror=mirror,
            memory=task.memory,
            least_workers=task.least_workers,
            may_split=task.may_split,
        )
        try:
            facts = import_module(node.module).run(context)
            mirror.wait()
        except Interrupted as reason:
            return {"interrupted": str(reason)}
        _refuse_non_finite(facts["metrics"])
        manifest = draft.publish(
            {
                "stage": node.stage,
                "node": node.name,
                "part": node.part,
                "fingerprint": task.fingerprint,
                "identity": task.identity,
                "made_from": dict(task.made_from),
                "run_id": task.run_id,
                "provenance": dict(task.provenance),
                "created": time.time(),
                "seconds": round(time.time() - started, 3),
                **facts,
            }
        )
    if not node.stage.startswith("train_"):  # what a finished artifact was made from is not needed any more
        store.drop_checkpoints(node.stage, task.key)
    return manifest


def _refuse_non_finite(metrics: Mapping[str, float]) -> None:
    broken = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    if broken:
        raise ValueError(f"not a result: {', '.join(broken)}")
