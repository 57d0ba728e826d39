"""Runs a plan: nodes as Ray tasks as soon as their inputs are there, everything told to MLflow."""

import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import TopologicalSorter
from math import inf
from pathlib import Path
from traceback import format_exception
from typing import IO, Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from pipelines.causes import cause
from pipelines.compute.channel import open_mailbox
from pipelines.compute.memory import least_workers, may_split
from pipelines.compute.nodes import smallest_memory
from pipelines.compute.priority import remove_mark
from pipelines.compute.room import room, worker_in_words
from pipelines.compute.team import is_final
from pipelines.execute import Task, execute
from pipelines.graph import Node
from pipelines.interrupt import Stop
from pipelines.plan import Plan, Step
from pipelines.terminal import Terminal
from pipelines.tracking.record import Recorder
from pipelines.workdir.lock import hold
from pipelines.workdir.store import Store, essence

_POLL_SECONDS = 0.3
_SAY_SECONDS = 60.0  # between lines that say what is waited for
_STOP_SECONDS = 240  # that training gets to end its step or evaluation and to write its last checkpoint


@dataclass
class Outcome:
    """How each node ended: ran, resumed, cached, skipped or failed; and its manifest when it is finished."""

    status: dict[str, str] = field(default_factory=dict)
    reason: dict[str, str] = field(default_factory=dict)
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def failed(self) -> list[str]:
        return [name for name, status in self.status.items() if status == "failed"]


class Runner:
    """One pass over a plan. The driver's only loop; nothing else waits."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        recorder: Recorder,
        terminal: Terminal,
        stop: Stop,
        mailbox: Any = None,
    ) -> None:
        """mailbox: from `open_mailbox`, of a run before this one in the same process; None opens one."""
        self.plan, self.store, self.recorder, self.terminal, self.stop = plan, store, recorder, terminal, stop
        self.outcome = Outcome()
        self.settled: list[str] = []  # nodes that have ended and whose dependants may go on
        self.running: dict[Any, str] = {}
        self.waiting: list[tuple[Step, str]] = []  # for another run or a node, and why they are to run
        self.locks: dict[str, IO[str]] = {}
        self.tasks: dict[str, Task] = {}
        self.restarts: Counter[str] = Counter()
        self.mailbox = mailbox
        self.stop_deadline = inf
        self.look_at = time.monotonic() + _SAY_SECONDS  # whether there is a node that can run anything

    def run(self) -> Outcome:
        """Ends when every node has ended, or, once asked to stop, when training has saved itself."""
        needs = {name: set(step.node.needs.values()) for name, step in self.plan.steps.items()}
        order = TopologicalSorter(needs)
        order.prepare()
        try:
            while order.is_active() and not self.outcome.interrupted:
                self._turn(order)
        except ray.exceptions.RayError as error:
            self._abandon()
            for name in self.running.values():
                self._fail(name, f"the Ray cluster was lost: {cause(error)}")
        except BaseException:
            self._abandon()
            raise
        finally:
            for lock in self.locks.values():
                lock.close()
        return self.outcome

    @cached_property
    def memory(self) -> float:
        """Bytes that an evaluation may take, wherever its parts run: its batches depend on it."""
        return smallest_memory(self.plan.settings) or inf

    def _abandon(self) -> None:
        """Nobody will look after what runs: no other run may meet it at work."""
        for reference in self.running:
            with suppress(ray.exceptions.RayError):
                ray.cancel(reference, force=True)

    def _turn(self, order: "TopologicalSorter[str]") -> None:
        if self.stop.count and not self.running:
            self.outcome.interrupted = True
            return
        if not self.stop.count:
            for name in sorted(order.get_ready(), key=lambda name: not name.startswith("train_")):
                self._begin(name)  # trainings first: other work takes what they leave
            waiting, self.waiting = self.waiting, []
            for step, reason in waiting:
                self._start(step, reason)
        if self.running:
            self._poll()
        elif self.waiting and not self.settled:
            time.sleep(_POLL_SECONDS)
        if time.monotonic() >= self.look_at and not self.stop.count:
            self._say_waiting()
        while self.settled:
            order.done(self.settled.pop())

    def _begin(self, name: str) -> None:
        """Starts a node, or settles at once what needs no work."""
        step = self.plan.steps[name]
        broken = [
            need for need in step.node.needs.values() if self.outcome.status[need] in ("failed", "skipped")
        ]
        if step.action == "skipped":
            self._settle(name, "skipped", step.reason)
        elif broken and step.action != "cached":
            self._settle(name, "skipped", f"needs {broken[0]}")
        elif step.will_run:
            self._start(step, step.reason)
        elif not self._take(step, step.reason):
            self._start(step, "what it was made from came out differently")

    def _take(self, step: Step, reason: str) -> bool:
        """Settles a node whose artifact is there, made from what its inputs are now; False when it is not."""
        name, manifest = step.node.name, self.store.manifest(step.node.stage, str(step.fingerprint))
        if manifest is None or manifest["made_from"] != self._made_from(step.node):
            return False
        self.outcome.manifests[name] = manifest
        self.recorder.node_cached(step.node, self._folder(name), manifest)
        self._settle(name, "cached", reason)
        return True

    def _made_from(self, node: Node) -> dict[str, str]:
        return {role: essence(self.outcome.manifests[name]) for role, name in node.needs.items()}

    def _settle(self, name: str, status: str, reason: str) -> None:
        self.outcome.status[name], self.outcome.reason[name] = status, reason
        self.settled.append(name)
        if lock := self.locks.pop(name, None):
            lock.close()
        seconds = self.outcome.manifests[name]["seconds"] if status in ("ran", "resumed") else None
        if self.plan.steps[name].action != "skipped":
            self.terminal.ended(name, status, seconds, "" if status in ("ran", "resumed") else reason)

    def _start(self, step: Step, reason: str) -> None:
        """Submits a node, or lets it wait while another run makes the same, or no node could run it.

        It must not start before: what it may do depends on the memory of the nodes (`memory`).
        """
        node, fingerprint, key = step.node, step.fingerprint, step.key
        if fingerprint is None or key is None:  # its source could not be listed when the plan was made
            self._settle(node.name, "failed", reason)
            return
        if not room(self.plan.settings.compute, use_gpu=node.uses_gpu):
            self.waiting.append((step, reason))
            return
        lock = hold(self.store.lock(node.stage, key))
        if lock is None:
            self.waiting.append((step, reason))
            return
        self.locks[node.name] = lock
        if not step.forced and self._take(step, "another run made it meanwhile"):
            return
        if self.mailbox is None:
            self.mailbox = open_mailbox()
        if step.forced:  # its checkpoints would only bring the former result back
            self.store.drop_checkpoints(node.stage, key)
        made_from = self._made_from(node)
        self.store.begin_work(node.stage, key, made_from)
        self.terminal.started(node.name, reason)
        self.outcome.reason[node.name] = reason
        task = Task(
            node,
            fingerprint,
            key,
            step.identity,
            {role: self._folder(need) for role, need in node.needs.items()},
            made_from,
            self.plan.settings,
            self.store,
            self.mailbox,
            self.recorder.node_starts(node),
            self.recorder.provenance,
            self.memory,
            *self._fewer_workers(node),
        )
        self.tasks[node.name] = task
        self.running[self._submit(task)] = node.name

    def _submit(self, task: Task) -> Any:
        """Nodes with workers hold no CPU themselves: their workers do."""
        node, compute = task.node, self.plan.settings.compute
        num_cpus = 0 if node.has_workers else compute.cpus_per_worker
        options: dict[str, Any] = {"num_cpus": num_cpus, "max_retries": 0, "name": node.name}
        options["scheduling_strategy"] = "DEFAULT"  # not among the resources of whoever runs this loop
        if not node.has_workers and node.uses_gpu and compute.gpus_per_worker:
            options["num_gpus"] = min(1, compute.gpus_per_worker)
        return ray.remote(execute).options(**options).remote(task)

    def _fewer_workers(self, node: Node) -> tuple[int, bool]:
        """The fewest that a training goes on with, and whether its micro-batches may shrink then."""
        settings, name = self.plan.settings, node.stage.removeprefix("train_")
        if name == node.stage:
            return 1, False
        return least_workers(settings, name, self.memory), may_split(settings, name)

    def _folder(self, name: str) -> Path:
        step = self.plan.steps[name]
        assert step.fingerprint is not None
        return self.store.artifact(step.node.stage, step.fingerprint)

    def _poll(self) -> None:
        """Waits a moment for a node to end; passes on what stages report meanwhile."""
        finished, _ = ray.wait(list(self.running), num_returns=1, timeout=_POLL_SECONDS)
        self._pass_on()
        for reference in finished:
            self._finish(self.running.pop(reference), reference)
        if self.stop.count:
            self._stop()

    def _say_waiting(self) -> None:
        """That no node can run a stage or its parts; a training with several workers tells this itself."""
        self.look_at = time.monotonic() + _SAY_SECONDS
        compute = self.plan.settings.compute
        running = [self.plan.steps[name].node for name in self.running.values()]
        nodes = [node for node in running if not (node.stage.startswith("train_") and node.has_workers)]
        nodes += [step.node for step, _ in self.waiting]
        nodes = [node for node in nodes if not room(compute, use_gpu=node.uses_gpu)]
        if nodes:
            names = ", ".join(node.name for node in nodes)
            worker = worker_in_words(compute, use_gpu=any(node.uses_gpu for node in nodes))
            self.terminal.say(f"{names}: waits for a node with {worker}", "yellow")

    def _finish(self, name: str, reference: Any) -> None:
        step = self.plan.steps[name]
        if step.node.has_workers:
            remove_mark(str(step.key))  # a task that was killed leaves it behind
        try:
            manifest = ray.get(reference)
        except ray.exceptions.RayError as error:
            if self._may_restart(step.node, error):
                self._restart(name, cause(error))
            else:
                self._fail(name, cause(error), "".join(format_exception(error)))
            return
        if "interrupted" in manifest:
            self._settle(name, "skipped", manifest["interrupted"])
            self.recorder.node_interrupted(step.node, manifest["interrupted"])
            self.outcome.interrupted = True
            return
        self.outcome.manifests[name] = manifest
        self.recorder.node_finished(step.node, self._folder(name), manifest)
        self.terminal.rejected(manifest.get("rejected", []))
        self.terminal.identical(manifest.get("identical", []), manifest.get("num_identical", 0))
        self._settle(name, "resumed" if step.action == "resume" else "ran", self.outcome.reason[name])

    def _may_restart(self, node: Node, error: ray.exceptions.RayError) -> bool:
        """True when a process or machine was lost, or training failed in its own node's process.

        Training with workers of its own restarts these itself (`pipelines.compute.team`).
        """
        alone = node.stage.startswith("train_") and not node.has_workers
        failed = isinstance(error, RayTaskError | OutOfMemoryError)
        may = (
            alone and not is_final(error) if failed else isinstance(error, WorkerCrashedError | NodeDiedError)
        )
        left = self.restarts[node.name] < self.plan.settings.compute.max_restarts
        return may and left and not self.stop.count

    def _restart(self, name: str, reason: str) -> None:
        self.restarts[name] += 1
        number, most = self.restarts[name], self.plan.settings.compute.max_restarts
        self.terminal.say(
            f"{name}: {reason}; going on from what it has saved (restart {number} of {most})", "yellow"
        )
        self.running[self._submit(self.tasks[name])] = name

    def _fail(self, name: str, reason: str, traceback: str = "") -> None:
        step = self.plan.steps[name]
        file = self.store.note_failure(step.node.stage, str(step.fingerprint), reason, traceback)
        self._settle(name, "failed", reason)
        if traceback:
            self.terminal.say(f"its traceback is in {file}", "yellow")
        self.recorder.node_failed(step.node, reason)

    def _pass_on(self) -> None:
        progress, points, notes = ray.get(self.mailbox.take.remote())
        for name, text in notes:
            self.terminal.say(f"{name}: {text}", "yellow")
        for name, message in progress.items():
            if name in self.tasks and name not in self.outcome.status:
                self.terminal.progress(name, message)
        for name, new in points.items():
            self.recorder.points(self.plan.steps[name].node, new)

    def _stop(self) -> None:
        """Training saves itself; everything else is ended at once."""
        training = [name for name in self.running.values() if name.startswith("train_")]
        if self.stop_deadline == inf:
            saves = f": training writes a last checkpoint (up to {_STOP_SECONDS} s)" if training else ""
            self.terminal.say(f"stopping{saves}")
            self.stop_deadline = time.monotonic() + _STOP_SECONDS
            ray.get(self.mailbox.stop.remote())
        if not training or time.monotonic() > self.stop_deadline or self.stop.count > 1:
            for name in self.running.values():
                self.recorder.node_interrupted(self.plan.steps[name].node, "interrupted")
                self._settle(name, "skipped", "interrupted")
            self.running.clear()
            self.outcome.interrupted = True
