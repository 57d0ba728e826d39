"""What of a run goes into MLflow: a child run a stage, shared by its nodes; figures on the parent."""

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipelines.curves import steps_are
from pipelines.files import read_json_list
from pipelines.graph import Node
from pipelines.number_text import MAIN_METRICS, SMOKE_PREFIX
from pipelines.plan import Plan
from pipelines.problems import first_line
from pipelines.provenance import Origin, facts
from pipelines.recipe import Recipe
from pipelines.settings import RUNTIME, flatten
from pipelines.tracking.courier import Courier
from pipelines.tracking.figures import draw_curves
from pipelines.tracking.run_record import run_record
from pipelines.tracking.tracker import OUTCOMES_FILE, TRACKING_ERRORS
from pipelines.trial import Trial
from pipelines.verdict import COURSE
from pipelines.workdir.store import Store

_TRAINING = ("train_stage1", "train_stage2")
_SAMPLES = "figures/sample_grid.png"
_ABOUT = (
    "Each seed above the sample that grew from it, a column a class. Among the artifacts: `report.html`, "
    "one page with everything, and the curves; the child runs are the stages that this run computed."
)


class Recorder:
    """Follows one pipeline run in MLflow; only its driver has one.

    `alone`: it holds the workdir's lock. `trial`: of a sweep, whose run it goes under.
    """

    def __init__(
        self,
        courier: Courier,
        recipe: Recipe,
        title: str,
        plan: Plan,
        store: Store,
        origin: Origin,
        *,
        alone: bool,
        trial: Trial | None = None,
    ) -> None:
        self.courier, self.tracker, self.send = courier, courier.tracker, courier.send
        self.plan, self.store, self.trial = plan, store, trial
        settings = flatten(recipe.settings)
        settings = {name: value for name, value in settings.items() if not name.startswith("published")}
        params = {name: str(value) for name, value in settings.items() if name not in RUNTIME}
        self.prefix = SMOKE_PREFIX if plan.smoke else ""
        self.provenance = facts(origin.commit) | ({"atjem.smoke": "true"} if plan.smoke else {})
        runtime = ", ".join(f"{name}={settings[name]}" for name in sorted(RUNTIME))
        tags = self.provenance | {"atjem.runtime": runtime}
        tags |= {"atjem.workdir": store.place, "atjem.workdir_id": store.identity()}
        if trial is None:
            self.tracker.close_orphans(store.identity() if alone else None)
        self.run_id = courier.open(
            self.tracker.open_parent, plan.fingerprint, title, params, tags, trial=trial
        )
        self.send(self.tracker.texts, self.run_id, run_record(recipe, plan, origin, self.provenance))
        self._before = self._stage_runs()  # made under this run by drivers before this one
        self.stage_runs: dict[str, str] = {}
        self._active: dict[str, set[str]] = {}  # nodes that are running, by stage
        self._failed: dict[str, str] = {}  # first failure, by stage
        self._held: dict[str, list[Mapping[str, float]]] = {}  # points of a node that wait for a disk
        self._said_full = False

    def node_starts(self, node: Node) -> str:
        """Opens the stage's run with its first node. Returns its id."""
        if node.stage not in self.stage_runs:
            main = self.plan.steps[node.stage]
            inputs = {role: self.plan.steps[name].fingerprint for role, name in main.node.needs.items()}
            listed = ", ".join(f"{role}={fingerprint}" for role, fingerprint in inputs.items())
            tags = {**self.provenance, "atjem.inputs": listed}
            rung = self.trial.rung if self.trial and node.stage not in _TRAINING else None
            self.stage_runs[node.stage] = self.courier.open(
                self.tracker.open_stage,
                self.run_id,
                node.stage,
                main.key or "",
                tags,
                "" if rung is None else f"{node.stage} at step {rung}",
            )
        self._active.setdefault(node.stage, set()).add(node.name)
        return self.stage_runs[node.stage]

    def points(self, node: Node, points: Iterable[Mapping[str, float]]) -> None:
        """Those that cannot be written down go with the next: training outlives a disk that is full."""
        held = [*self._held.pop(node.name, ()), *points]
        try:
            if held:
                self.send(self.tracker.points, self.stage_runs[node.stage], held, self.prefix + node.prefix)
        except OSError as error:
            if not self._said_full:
                self.courier.say(f"MLflow is told later: {first_line(error)}", "yellow")
            self._held[node.name], self._said_full = held, True

    def node_finished(self, node: Node, folder: Path, manifest: Mapping[str, Any]) -> None:
        run_id, fingerprint = self.stage_runs[node.stage], folder.name
        folder = self.store.pictures(node.stage, fingerprint)
        points = read_json_list(folder / "curve.json") or manifest.get("points", [])
        self.points(node, points)
        prefix = self.prefix + node.prefix
        metrics = {f"{prefix}{name}": value for name, value in manifest.get("metrics", {}).items()}
        topic = f"{node.topic}_" if node.topic else ""  # which shares the stage's run
        metrics[f"{prefix}{topic}seconds"] = manifest["seconds"]
        if self.trial is None or self.trial.rung is None or node.stage not in _TRAINING:  # which goes on
            self.send(self.tracker.metrics, run_id, metrics)
        tags = {f"atjem.absent.{name}": why for name, why in manifest.get("absent", {}).items()}
        for back in manifest.get("returns", []):  # one at most
            told = f"from step {back['from']} to {back['to']}: {back['why']}"
            tags["atjem.returned"] = f"{told}; up to step {back['from']} charts show the course that was left"
        if node.is_stage:
            tags["atjem.artifact"] = self.store.address(node.stage, fingerprint)
        self.send(self.tracker.tag, run_id, tags)
        self._pictures(node, folder, points)
        self._leave(node)

    def node_cached(self, node: Node, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Catches up on a node that this very pipeline run made before it was cut off."""
        run_id = str(self.courier.real(manifest["run_id"]))
        if run_id in self._before or run_id in self.stage_runs.values():
            self.stage_runs[node.stage] = run_id
            self._active.setdefault(node.stage, set()).add(node.name)
            self.node_finished(node, folder, manifest)

    def node_failed(self, node: Node, reason: str) -> None:
        self._failed.setdefault(node.stage, reason)
        self._leave(node)

    def node_interrupted(self, node: Node, reason: str) -> None:
        if self._active.pop(node.stage, None):
            self.send(self.tracker.close, self.stage_runs[node.stage], "interrupted", reason)

    def finish(self, manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
        """Puts the figures, datasets, links and model on the parent run. Returns the figures."""
        figures: dict[str, float] = {}
        links: dict[str, str] = {}
        protocols: dict[str, Any] = {}
        outcomes: dict[str, str] = {}
        for name, manifest in manifests.items():
            node = self.plan.steps[name].node
            if not node.part:
                if node.is_stage and node.stage not in self.stage_runs:  # made by an earlier pipeline run
                    links[f"atjem.run.{name}"] = manifest["run_id"]
                links |= {f"atjem.absent.{k}": v for k, v in manifest.get("absent", {}).items()}
            metrics = manifest.get("metrics", {})
            prefix = self.prefix + node.prefix
            if (
                node.stage in _TRAINING
            ):  # figures are on their own runs; leaving the course is the run's matter
                metrics = {key: value for key, value in metrics.items() if key in COURSE}
                prefix = self.prefix + ("stage1_" if node.stage == "train_stage1" else "")
            figures |= {prefix + key: value for key, value in metrics.items()}
            own = manifest.get("protocols", {})
            protocols |= {prefix + key: own[key] for key in metrics.keys() & own.keys()}
            outcomes |= {prefix + key: each for key, each in manifest.get("outcomes", {}).items()}
        main = (self.prefix + name for name in MAIN_METRICS)
        main_first = dict.fromkeys((*(name for name in main if name in figures), *figures))
        self.send(self.tracker.metrics, self.run_id, {name: figures[name] for name in main_first})
        self.send(self.tracker.tag, self.run_id, links)
        self.send(self.tracker.protocols, self.run_id, protocols)
        if outcomes:
            self.send(self.tracker.texts, self.run_id, {OUTCOMES_FILE: json.dumps(outcomes)})
        if "sample" in manifests:
            self.send(self.tracker.describe, self.run_id, _ABOUT, manifests["sample"]["run_id"], _SAMPLES)
        if "preprocess" in manifests:
            self.send(self.tracker.datasets, self.run_id, manifests["preprocess"]["datasets"])
        if "train_stage2" in self.stage_runs and "train_stage2" in manifests and self.trial is None:
            self._model()  # made under this parent, by this call or by one that was cut off
        return figures

    def close(self, status: str, reason: str) -> None:
        for stage in list(self._active):
            if self._active.pop(stage):
                self.send(self.tracker.close, self.stage_runs[stage], "interrupted", reason)
        self.send(self.tracker.close, self.run_id, status, reason)

    def _stage_runs(self) -> set[str]:
        """Of the stages of this very run, as its store knows them now."""
        if self.trial is None:
            return self.tracker.children(self.run_id)
        try:  # a trial begins although its store is away
            return set() if self.courier.away else self.tracker.children(self.run_id)
        except TRACKING_ERRORS:
            return set()

    def _leave(self, node: Node) -> None:
        """Closes the stage's run when its last running node has ended and no other is to come."""
        active = self._active.get(node.stage, set())
        active.discard(node.name)
        if not active:
            self._active.pop(node.stage, None)
            status = "failed" if node.stage in self._failed else "done"
            reason = self._failed.get(node.stage, "")
            self.send(self.tracker.close, self.stage_runs[node.stage], status, reason)

    def _pictures(self, node: Node, folder: Path, points: list[dict[str, float]]) -> None:
        label = f"{node.part}_" if node.part else ""
        runs = (self.stage_runs[node.stage], self.run_id)
        for picture in sorted(folder.glob("figures/*.png")):
            self.send(self.tracker.image, runs, picture, f"{label}{picture.stem}")
        if not node.part and (samples := folder / _SAMPLES).is_file():
            self.send(
                self.tracker.file, [self.run_id], samples
            )  # the page that compares runs shows no folders
        movies = [] if node.part else folder.glob("figures/*.gif")  # of one name, stage 1's too
        for other in (*folder.glob("*.html"), *movies):
            self.send(self.tracker.file, runs, other)
        if len(points) > 1 and self.trial is None:  # trials' curves are compared in MLflow's own charts
            with tempfile.TemporaryDirectory() as temporary:
                path = Path(temporary, "curves.png")
                draw_curves(points, path, steps_are(node.stage))
                if path.exists():
                    self.send(self.tracker.image, runs, path, f"{label}{node.topic or node.stage}_curves")

    def _model(self) -> None:
        step = self.plan.steps["train_stage2"]
        folder = self.store.fetch("train_stage2", str(step.fingerprint))
        self.send(self.tracker.model, self.run_id, folder, "model")
