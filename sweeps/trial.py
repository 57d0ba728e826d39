"""One trial: the recipe with a point of the space laid over it, run as a pipeline in a process of its own.

Its stages are Ray tasks like any run's. What other trials have made, or are making now, it takes from the
workdir instead of making it again.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.tune import Trainable

from data.redact import redact
from pipelines.compute.channel import open_mailbox
from pipelines.plan import make_plan
from pipelines.problems import BadInput, first_line
from pipelines.provenance import Origin, trust_tag
from pipelines.runner import Outcome, Runner
from pipelines.terminal import Terminal
from pipelines.tracking.courier import Courier
from pipelines.tracking.delivery import Server
from pipelines.tracking.record import Recorder
from pipelines.trial import Trial
from pipelines.workdir.store import Store
from sweeps.jobs import Job, Level, Result

_END_SECONDS = 10.0  # that MLflow gets for the last records of a process
_ASK_SECONDS = 1.0  # between looks whether the sweep is to stop
RESULT = "result"  # where Ray Tune carries a `Result`
LOGS = "trials"  # folder of the trials' own lines, in the sweep's


@dataclass(frozen=True)
class Place:
    """What all trials of a sweep share."""

    name: str
    folder: Path
    store: Store
    tracking_uri: str
    experiment: str
    sweep_run: str
    origin: Origin
    nodes: tuple[str, ...]  # that measure the objectives
    score: str  # the metric of the rungs
    smoke: bool
    trust_checkpoint: bool
    mailbox: Any


class PipelineTrial(Trainable):
    """Ray Tune's view of a job: a step is a level of it. The process serves one job after another."""

    def setup(self, config: dict[str, Any], place: Place | None = None) -> None:
        assert place is not None
        self.place = place
        self.courier: Courier | None = None  # of one run after another too
        self.mailbox = open_mailbox()  # of one run after another: an actor takes a second to start
        self.reset_config(config)

    def reset_config(self, config: dict[str, Any]) -> bool:
        self.job: Job = config["job"]
        self.level = 0
        return True

    def step(self) -> dict[str, Any]:
        """Runs the next level."""
        level = self.job.levels[self.level]
        self.level += 1
        try:
            if self.courier is None:
                server = Server(self.place.store.workdir, self.place.tracking_uri)
                self.courier = Courier(server, self.place.experiment, self._say)
                self.courier.start()  # MLflow may be away by now
            result = run_level(self.place, self.job, level, self.courier, self.mailbox)
        except BadInput as error:
            result = Result("failed", level.step, cause=redact(first_line(error)))
        except OSError as error:
            self.mailbox = open_mailbox()  # stages that were ended may still write to the other
            result = Result("broken", level.step, cause=f"the disk failed: {redact(first_line(error))}")
        return {"done": result.outcome != "rung", RESULT: result}

    def cleanup(self) -> None:
        """Leaves to the sweep's driver what MLflow does not have in a moment."""
        if self.courier is not None:
            self.courier.wait(lambda: bool(self.courier and self.courier.away), _END_SECONDS)
            self.courier.close()

    def _say(self, text: str, style: str | None = None) -> None:
        """In the log of the trial that runs; what is amiss, on the sweep's screen too."""
        with _log(self.place, self.job).open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")
        if style is not None:
            self.place.mailbox.put.remote(f"{self.job.label}: MLflow", {"said": text}, [])

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: stages keep their own checkpoints."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None: ...


def _log(place: Place, job: Job) -> Path:
    file = place.folder / LOGS / f"{job.label.replace(', ', '-').replace(' ', '-')}.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def run_level(place: Place, job: Job, level: Level, courier: Courier, mailbox: Any) -> Result:
    """Runs what of a level is not there yet. mailbox: that its stages report to."""
    ray.get(mailbox.take.remote())  # what the run before left unread
    plan = make_plan(
        level.settings,
        place.store,
        only=place.nodes,
        smoke=place.smoke,
        trust_checkpoint=place.trust_checkpoint,
    )
    trial = Trial(place.name, place.sweep_run, job.number, job.seed, level.step)
    recorder = Recorder(
        courier, job.recipe, job.title, plan, place.store, place.origin, alone=False, trial=trial
    )
    if trust := trust_tag(plan):
        recorder.send(courier.tracker.tag, recorder.run_id, trust)
    with _log(place, job).open("a", encoding="utf-8") as file:
        terminal, stop = _TrialTerminal(file, place.mailbox, job.label), _Wish(place.mailbox)
        outcome = Runner(plan, place.store, recorder, terminal, stop, mailbox).run()
    result = Result(
        "rung" if level.step is not None else "done",
        level.step,
        run_id=str(courier.real(recorder.run_id)),
        fingerprint=plan.fingerprint,
        executed=tuple(name for name, status in outcome.status.items() if status in ("ran", "resumed")),
        failed=tuple(outcome.failed),
    )
    result = replace(result, seconds=_seconds(result.executed, outcome))
    if outcome.failed:
        cause = redact("; ".join(f"{name}: {outcome.reason[name]}" for name in outcome.failed))
        recorder.close("failed", cause)
        return replace(result, outcome="failed", cause=cause)
    if outcome.interrupted and stop.count:
        recorder.close("interrupted", "")
        return replace(result, outcome="interrupted")
    if outcome.interrupted:
        cause = next(outcome.reason[name] for name, status in outcome.status.items() if status == "skipped")
        recorder.close("failed", cause)
        return replace(result, outcome="failed", cause=f"ended early: {cause}")
    metrics = _metrics(place, outcome)
    if level.step is None:
        recorder.finish(outcome.manifests)
        recorder.close("done", "")
    elif place.score in metrics:
        point = {"step": level.step, f"rung_{place.score}": metrics[place.score]}
        courier.send(courier.tracker.points, recorder.run_id, [point], recorder.prefix)
    return replace(result, metrics=metrics)


def _metrics(place: Place, outcome: Outcome) -> dict[str, float]:
    """Of the nodes that measure stage 2's model."""
    found: dict[str, float] = {}
    for name in ("sample", *place.nodes):
        found |= outcome.manifests.get(name, {}).get("metrics", {})
    return found


def _seconds(executed: Iterable[str], outcome: Outcome) -> float:
    return round(sum(outcome.manifests[name]["seconds"] for name in executed), 1)


class _Wish:
    """`pipelines.interrupt.StopRequest` from afar: the driver's wish that everything ends."""

    def __init__(self, mailbox: Any) -> None:
        self.mailbox, self._next, self._count = mailbox, 0.0, 0

    @property
    def count(self) -> int:
        if not self._count and time.monotonic() >= self._next:
            self._count = int(ray.get(self.mailbox.put.remote("", None, [])))
            self._next = time.monotonic() + _ASK_SECONDS
        return self._count


class _TrialTerminal(Terminal):
    """Lines go to the trial's log; how far it is goes to the sweep's driver, which has the screen."""

    def __init__(self, file: Any, mailbox: Any, label: str) -> None:
        super().__init__(file=file)
        self.mailbox, self.label = mailbox, label

    def progress(self, name: str, message: Mapping[str, Any]) -> None:
        self.mailbox.put.remote(f"{self.label}: {name}", dict(message), [])
        super().progress(name, message)

    def ended(self, name: str, status: str, seconds: float | None, reason: str) -> None:
        self.mailbox.put.remote(f"{self.label}: {name}", {"ended": True}, [])
        super().ended(name, status, seconds, reason)
