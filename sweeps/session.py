"""A call of the sweep's command, after the checks: a name, a study, trials on Ray, and what they came to."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from data.redact import redact
from pipelines.cli import DONE, FAILED
from pipelines.devices import local_resources
from pipelines.interrupt import StopRequest
from pipelines.number_text import SMOKE_PREFIX
from pipelines.plan import make_plan
from pipelines.problems import BadInput, Problem, first_line
from pipelines.provenance import provenance
from pipelines.store import Store
from pipelines.terminal import Terminal
from pipelines.usage import INTERRUPTED
from sweeps.note import SPACE_FILE, Note, new_name, sweep_folder
from sweeps.results import (
    BEST_FILE,
    markdown,
    print_json,
    publish_best,
    say_results,
    say_where,
    write_pictures,
    write_recipes,
    write_trials,
)
from sweeps.search import Search
from sweeps.shape import check_shape, fitting
from sweeps.sweep import Study, Sweep

if TYPE_CHECKING:
    from pipelines.tracking import Tracker


@dataclass(frozen=True)
class Session:
    """Holds the workdir's lock."""

    note: Note
    study: Study
    store: Store
    tracking_uri: str
    artifacts: Path | None  # where a local tracking store keeps files
    storage: str | None  # of the Optuna study; None: SQLite in the sweep's folder
    concurrent: int | None  # None: as many as the cluster has room for
    ray_address: str | None
    terminal: Terminal
    stop: StopRequest
    command: Callable[[str], str]  # that goes on with the sweep of a name

    def run(self, resume: str | None, *, as_json: bool) -> int:
        """Searches, tells how it went, and returns the exit code."""
        name = resume or new_name(self.store, self.study.experiment)
        folder = sweep_folder(self.store, name)
        replace(self.note, fingerprint=self._fingerprint(name)).write(folder)
        storage = self.storage or f"sqlite:///{folder / 'study.db'}"
        say, again = self.terminal.say, self.command(name)
        say(f"sweep {name}: {self.note.trials} trials of {self.study.recipe.name}")
        say(f"objectives {', '.join(self.note.objectives)}; to go on after a stop: {again}")
        sweep = self._open(storage, name, folder)
        try:
            run_id, status = self._search(sweep, name, folder)
        except self._tracking_errors() as error:
            line = f"error: --tracking-uri: {self.tracking_uri}; MLflow failed during the sweep: "
            typer.echo(
                redact(f"{line}{first_line(error)}; finished trials are kept, to go on: {again}"), err=True
            )
            if as_json:
                print_json(name, None, "failed", sweep, None)
            return FAILED
        best = write_recipes(sweep, folder)
        say_results(sweep, self.terminal)
        if self.study.smoke and status == "done":
            say("smoke: everything ran; none of these figures is a result", "yellow")
        best = best and publish_best(best, self.store.workdir)
        say_where(self.terminal, sweep, best, folder, redact(storage))
        say(redact(f"tracking   {self.tracking_uri}, run {run_id}"))
        if status == "failed":
            why = sweep.broken or "no trial succeeded"
            typer.echo(redact(f"error: sweep {name}: {why}; to go on: {again}"), err=True)
        elif status == "interrupted":
            say(f"interrupted; nothing finished is lost. To go on: {again}")
        if as_json:
            print_json(name, run_id, status, sweep, best)
        return {"done": DONE, "failed": FAILED, "interrupted": INTERRUPTED}[status]

    def _tracking_errors(self) -> tuple[type[Exception], ...]:
        from pipelines.tracking import TRACKING_ERRORS

        return TRACKING_ERRORS

    def _fingerprint(self, name: str) -> str:
        """Of the recipe itself. Raises BadInput when the sweep was begun with another."""
        study = self.study
        settings = study.settings(study.recipe)
        now = make_plan(settings, self.store, only=study.nodes, smoke=study.smoke).fingerprint
        if self.note.fingerprint not in ("", now):
            given = f"{name} was begun with other settings, images, code or library versions"
            raise BadInput([Problem("--resume", given, "figures would not compare: start a new sweep")])
        return now

    def _open(self, storage: str, name: str, folder: Path) -> Sweep:
        search = Search(
            storage,
            name,
            self.study.space,
            self.study.objectives,
            self.study.recipe.settings,
            num_trials=self.note.trials,
            sampler=self.note.sampler,
            looks=self.study.looks,
        )
        sweep = Sweep(self.study, search, self.terminal, self.stop, self.note.seeds)
        sweep.on_change = lambda: write_recipes(sweep, folder)
        return sweep

    def _search(self, sweep: Sweep, name: str, folder: Path) -> tuple[str, str]:
        """Runs what trials there are to run. Returns the sweep's MLflow run and how it ended."""
        from pipelines.tracking import Trial

        with ExitStack() as stack:
            concurrent = self._connect(stack) if sweep.has_work else 0
            tracker, run_id = self._open_run(name)
            sweep.on_pruned = lambda run, why: tracker.close(run, "pruned", why)
            sweep.on_lost = lambda job, why: tracker.fail_trial(
                Trial(name, run_id, job.number, job.seed, rung=None), why
            )
            if concurrent:
                self._tune(sweep, name, folder, run_id, concurrent)
        sweep.search.requeue()
        status = "done" if sweep.search.finished else "failed"
        if sweep.broken:
            status = "failed"
        elif self.stop.count:
            status = "interrupted"
        sweep.on_change()
        files = [folder / SPACE_FILE, write_trials(sweep, folder)]
        files += [folder / BEST_FILE] if (folder / BEST_FILE).exists() else []
        tracker.sweep_results(run_id, _figures(sweep), markdown(sweep), files, write_pictures(sweep, folder))
        tracker.close(run_id, status, sweep.broken)
        return run_id, status

    def _connect(self, stack: ExitStack) -> int:
        """Starts or joins Ray, which is imported only now. Returns how many trials run at a time."""
        from pipelines import cluster

        settings = self.study.settings(self.study.recipe)
        local, threads = local_resources(settings), settings.compute.cpus_per_worker
        session = cluster.session(
            self.ray_address, int(local["CPU"]), int(local.get("GPU", 0)), threads, also=("sweeps",)
        )
        there = stack.enter_context(session)
        concurrent = self.concurrent or fitting(settings, there)
        if problems := check_shape(settings, there, concurrent, "the cluster"):
            raise BadInput(problems)
        self.stop.arm()  # Ray takes SIGTERM for itself
        return concurrent

    def _open_run(self, name: str) -> tuple["Tracker", str]:
        """The sweep's run in MLflow. Raises BadInput when MLflow does not take it."""
        from pipelines.tracking import TRACKING_ERRORS, Tracker

        tags = provenance() | ({"atjem.smoke": "true"} if self.study.smoke else {})
        try:
            tracker = Tracker(self.tracking_uri, self.study.experiment, self.artifacts)
            return tracker, tracker.open_sweep(name, self._params(), tags, str(self.store.workdir))
        except TRACKING_ERRORS as error:
            problem = Problem("--tracking-uri", self.tracking_uri, f"MLflow says: {first_line(error)}")
            raise BadInput([problem]) from error

    def _tune(self, sweep: Sweep, name: str, folder: Path, run_id: str, concurrent: int) -> None:
        from sweeps.trial import Place
        from sweeps.tuning import Mail, tune

        sweep.mail = Mail()
        place = Place(
            name,
            folder,
            self.store,
            self.tracking_uri,
            self.study.experiment,
            self.artifacts,
            run_id,
            self.study.nodes,
            self.study.score,
            self.study.smoke,
            sweep.mail.box,
        )
        self.terminal.say(f"{concurrent} trial{'s' * (concurrent > 1)} at a time")
        with self.terminal:
            tune(place, sweep, concurrent)

    def _params(self) -> dict[str, str]:
        """Of the sweep's run in MLflow."""
        searched = {f"space.{p.name}": _range(p.distribution) for p in self.study.space.parameters}
        return {
            "objectives": ", ".join(self.note.objectives),
            "sampler": self.note.sampler,
            "overrides": ", ".join(self.note.overrides) or "none",
            **searched,
        }


def _range(distribution: Any) -> str:
    if hasattr(distribution, "choices"):
        return f"one of {', '.join(map(str, distribution.choices))}"
    return f"{distribution.low:g} to {distribution.high:g}" + ", logarithmic" * distribution.log


def _figures(sweep: Sweep) -> dict[str, float]:
    """Of the sweep's own run: the winner's figures (means, where there are seeds), numbers of trials."""
    best, points, spreads = sweep.best(), sweep.points(), sweep.spreads()
    values = spreads[0].mean if spreads else points.get(-1 if best is None else best, ())
    names = [f"best_{objective.metric}" for objective in sweep.study.objectives]
    figures = {
        **dict(zip(names, values, strict=False)),
        "num_trials": len(sweep.search.trials),
        "num_measured": len(points),
        "front_size": len(sweep.order()),
    }
    return {SMOKE_PREFIX * sweep.study.smoke + name: value for name, value in figures.items()}
