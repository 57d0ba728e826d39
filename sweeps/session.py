"""A call of the sweep's command, after the checks: a name, a study, trials on Ray, and what they came to."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import typer
from alembic.util.exc import CommandError
from optuna.exceptions import OptunaError
from sqlalchemy.exc import SQLAlchemyError

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
from sweeps.note import RECIPE_FILE, SPACE_FILE, Note, names, new_identity, sweep_folder
from sweeps.results import (
    Importances,
    markdown,
    print_json,
    publish_best,
    say_results,
    say_where,
    what_mattered,
    write_pictures,
    write_recipes,
    write_trials,
)
from sweeps.search import NameTakenError, Search
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
    concurrent: int | None  # None: as many as the cluster has room for
    ray_address: str | None
    terminal: Terminal
    stop: StopRequest
    command: Callable[[str], str]  # that goes on with the sweep of a name

    def run(self, resume: str | None, *, as_json: bool) -> int:
        """Searches, tells how it went, and returns the exit code."""
        name, sweep = self._open(resume)
        folder, again = sweep_folder(self.store, name), self.command(name)
        say = self.terminal.say
        say(f"sweep {name}: {self.note.trials} trials of {self.study.recipe.name}")
        say(f"objectives {', '.join(self.note.objectives)}; to go on after a stop: {again}")
        try:
            run_id, status, best, mattered = self._search(sweep, name, folder)
        except BadInput:  # before the first trial
            if resume is None:
                self._forget(name)
            raise
        except self._tracking_errors() as error:
            sweep.search.requeue()
            line = f"error: sweep {name}: MLflow or its disk failed: {first_line(error)}"
            typer.echo(redact(f"{line}; finished trials are kept, to go on: {again}"), err=True)
            if as_json:
                print_json(name, None, "failed", sweep, None)
            return FAILED
        say_results(sweep, mattered, self.terminal)
        if self.study.smoke and status == "done":
            say("smoke: everything ran; none of these figures is a result", "yellow")
        best = best and publish_best(best, self.store.workdir)
        say_where(self.terminal, sweep, best, folder, redact(self._storage(name)))
        say(redact(f"tracking   {self.tracking_uri}, run {run_id}"))
        if status == "failed":
            why = sweep.broken or "no trial succeeded"
            typer.echo(redact(f"error: sweep {name}: {why}; to go on: {again}"), err=True)
        elif status == "interrupted":
            say(f"interrupted; nothing finished is lost. To go on: {again}")
        if as_json:
            print_json(name, run_id, status, sweep, best)
        return {"done": DONE, "failed": FAILED, "interrupted": INTERRUPTED}[status]

    def _open(self, resume: str | None) -> tuple[str, Sweep]:
        """The sweep and its name: an old one's, or one that is free here and in the storage."""
        note = self.note
        fingerprint = self._fingerprint(resume)
        if resume is None:
            note = replace(note, fingerprint=fingerprint, identity=new_identity())
            name, search = self._new_study(note.identity)
        else:
            name, search = resume, self._study(resume, note.identity, is_new=False)
        folder = sweep_folder(self.store, name)
        note.write(folder)
        study = replace(self.study, source=str(folder / RECIPE_FILE))  # whatever becomes of the original
        sweep = Sweep(study, search, self.terminal, self.stop, note.seeds)
        sweep.on_change = lambda: write_recipes(sweep, folder)
        return name, sweep

    def _new_study(self, identity: str) -> tuple[str, Search]:
        """Under the first name that neither the workdir nor the storage has."""
        for name in names(self.store, self.study.experiment):
            folder = sweep_folder(self.store, name)
            folder.mkdir(parents=True)
            try:
                return name, self._study(name, identity, is_new=True)
            except NameTakenError:
                folder.rmdir()
        raise AssertionError("names never end")

    def _storage(self, name: str) -> str:
        return self.note.storage or f"sqlite:///{sweep_folder(self.store, name) / 'study.db'}"

    def _study(self, name: str, identity: str, *, is_new: bool) -> Search:
        """Opens a study, or makes it. Raises BadInput when it is not there or is no study."""
        storage = self._storage(name)
        try:
            if not is_new and name not in optuna.study.get_all_study_names(storage):
                allowed = "it is gone: give the --storage that the sweep was begun with, or start a new one"
                raise BadInput([Problem("--resume", f"no study {name} in {storage}", allowed)])
            return Search(
                storage,
                name,
                identity,
                self.study.space,
                self.study.objectives,
                self.study.recipe.settings,
                num_trials=self.note.trials,
                sampler=self.note.sampler,
                looks=self.study.looks,
            )
        except NameTakenError as taken:
            if is_new:
                raise
            allowed = "it is another sweep's; give the --storage that this one was begun with"
            raise BadInput([Problem("--resume", f"the study {name} in {storage}", allowed)]) from taken
        except (SQLAlchemyError, CommandError, OptunaError) as error:
            allowed = f"Optuna says: {first_line(error)}; give another --storage"
            raise BadInput([Problem("--storage", storage, allowed)]) from error

    def _forget(self, name: str) -> None:
        """A sweep of which nothing has begun."""
        if self.note.storage:
            optuna.delete_study(study_name=name, storage=self.note.storage)
        shutil.rmtree(sweep_folder(self.store, name), ignore_errors=True)

    def _tracking_errors(self) -> tuple[type[Exception], ...]:
        from pipelines.tracking import TRACKING_ERRORS

        return TRACKING_ERRORS

    def _fingerprint(self, name: str | None) -> str:
        """Of the recipe itself. Raises BadInput when the sweep to go on with was begun with another."""
        study = self.study
        settings = study.settings(study.recipe)
        now = make_plan(settings, self.store, only=study.nodes, smoke=study.smoke).fingerprint
        if name is not None and self.note.fingerprint != now:
            given = f"{name} was begun with other images, code or library versions"
            raise BadInput([Problem("--resume", given, "figures would not compare: start a new sweep")])
        return now

    def _search(self, sweep: Sweep, name: str, folder: Path) -> tuple[str, str, Path | None, Importances]:
        """Runs what trials there are to run.

        Returns the sweep's MLflow run, how it ended, the best trial's recipe, and which settings mattered.
        """
        from pipelines.tracking import Trial

        with ExitStack() as stack:
            concurrent = self._connect(stack) if sweep.has_work else 0
            tracker, run_id = self._open_run(name, sweep.search.identity)
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
        best, mattered = write_recipes(sweep, folder), what_mattered(sweep)
        files = [folder / SPACE_FILE, write_trials(sweep, folder), *([best] if best else [])]
        pictures = write_pictures(sweep, mattered, folder)
        tracker.sweep_results(run_id, _figures(sweep), markdown(sweep, mattered), files, pictures)
        tracker.close(run_id, status, sweep.broken)
        return run_id, status, best, mattered

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

    def _open_run(self, name: str, identity: str) -> tuple["Tracker", str]:
        """The sweep's run in MLflow. Raises BadInput when MLflow does not take it."""
        from pipelines.tracking import TRACKING_ERRORS, Tracker

        tags = provenance() | ({"atjem.smoke": "true"} if self.study.smoke else {})
        try:
            tracker = Tracker(self.tracking_uri, self.study.experiment, self.artifacts)
            return tracker, tracker.open_sweep(name, identity, self._params(), tags, str(self.store.workdir))
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
