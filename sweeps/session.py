"""A call of the sweep's command, after the checks: a name, a study, trials on Ray, and what they came to."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from alembic.util.exc import CommandError
from optuna.exceptions import OptunaError
from sqlalchemy.exc import SQLAlchemyError

from data.command_line import say_error
from data.redact import redact
from pipelines.commands.options import DONE, FAILED
from pipelines.compute.devices import local_resources
from pipelines.interrupt import StopRequest
from pipelines.number_text import SMOKE_PREFIX
from pipelines.plan import make_plan
from pipelines.problems import BadInput, Problem, first_line
from pipelines.provenance import Origin, facts, origin
from pipelines.terminal import Terminal
from pipelines.trial import Trial
from pipelines.usage import INTERRUPTED
from pipelines.workdir.store import Store
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
    from pipelines.tracking.courier import Courier


@dataclass(frozen=True)
class Session:
    """Holds the workdir's lock."""

    note: Note
    study: Study
    store: Store
    tracking_uri: str
    concurrent: int | None  # None: as many as the cluster has room for
    ray_address: str | None
    trust_checkpoint: bool
    terminal: Terminal
    stop: StopRequest
    command: Callable[[str], str]  # that goes on with the sweep of a name

    def run(self, resume: str | None, *, as_json: bool) -> int:
        """Searches, tells how it went, and returns the exit code."""
        from pipelines.tracking.courier import Courier
        from pipelines.tracking.delivery import Server
        from pipelines.tracking.handover import bring_leftovers

        server = Server(self.store.workdir, self.tracking_uri)
        bring_leftovers(server, self.terminal, self.stop)
        name, sweep = self._open(resume)
        self.terminal.say(f"sweep {name}: {self.note.trials} trials of {self.study.recipe.name}")
        self.terminal.say(f"objectives {', '.join(self.note.objectives)}")
        again = self.command(name)
        with Courier(server, self.study.experiment, self.terminal.say) as courier:
            sweep.real = courier.real
            try:
                found = self._search(sweep, courier, name, sweep_folder(self.store, name))
            except BadInput:  # before the first trial
                if resume is None:
                    self._forget(name)
                raise
            except self._tracking_errors() as error:
                sweep.search.requeue()
                line = f"sweep {name}: its disk failed: {first_line(error)}"
                say_error(f"{line}; finished trials are kept, to go on: {again}")
                if as_json:
                    print_json(name, None, "failed", sweep, None)
                return FAILED
            return self._tell(sweep, courier, name, *found, as_json=as_json)

    def _tell(
        self,
        sweep: Sweep,
        courier: "Courier",
        name: str,
        run_id: str,
        status: str,
        best: Path | None,
        mattered: Importances,
        *,
        as_json: bool,
    ) -> int:
        """Says how it went, waits for MLflow to have all of it, and returns the exit code."""
        from pipelines.tracking.handover import settle

        say, again = self.terminal.say, self.command(name)
        say_results(sweep, mattered, self.terminal)
        if self.study.smoke and status == "done":
            say("smoke: everything ran; none of these figures is a result", "yellow")
        left = settle(courier, self.terminal, self.stop, again)
        best = best and publish_best(best, self.store.workdir)
        folder = sweep_folder(self.store, name)
        say_where(self.terminal, sweep, best, folder, redact(self._storage(name)))
        say(redact(f"tracking   {self.tracking_uri}, run {run_id}"))
        if status == "failed":
            why = sweep.broken or "no trial succeeded"
            say_error(f"sweep {name}: {why}; to go on: {again}")
        elif status == "interrupted":
            say(f"interrupted; nothing finished is lost. To go on: {again}")
        if as_json:
            print_json(name, run_id, status, sweep, best, undelivered=left)
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
        from pipelines.tracking.tracker import TRACKING_ERRORS

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

    def _search(
        self, sweep: Sweep, courier: "Courier", name: str, folder: Path
    ) -> tuple[str, str, Path | None, Importances]:
        """Runs what trials there are to run.

        Returns the sweep's MLflow run, how it ended, the best trial's recipe, and which settings mattered.
        """
        from pipelines.tracking.handover import wait_for_others

        send, tracker = courier.send, courier.tracker
        with ExitStack() as stack:
            concurrent, code = self._connect(stack) if sweep.has_work else 0, origin()
            run_id = self._open_run(courier, name, sweep.search.identity, code)
            self.terminal.say(f"to go on after a stop: {self.command(name)}")
            sweep.on_pruned = lambda run, why: send(tracker.close, run, "pruned", why)
            sweep.on_lost = lambda job, why: send(
                tracker.fail_trial, Trial(name, run_id, job.number, job.seed, rung=None), why
            )
            if concurrent:
                self._tune(sweep, name, folder, run_id, code, concurrent)
        sweep.search.requeue()
        status = "done" if sweep.search.finished else "failed"
        if sweep.broken:
            status = "failed"
        elif self.stop.count:
            status = "interrupted"
        best, mattered = write_recipes(sweep, folder), what_mattered(sweep)
        files = [folder / SPACE_FILE, write_trials(sweep, folder), *([best] if best else [])]
        pictures = write_pictures(sweep, mattered, folder)
        wait_for_others(courier)  # trials' processes, which end with Ray
        send(tracker.sweep_results, run_id, _figures(sweep), markdown(sweep, mattered), files, pictures)
        send(tracker.close, run_id, status, sweep.broken)
        return run_id, status, best, mattered

    def _connect(self, stack: ExitStack) -> int:
        """Starts or joins Ray, which is imported only now. Returns how many trials run at a time."""
        from pipelines.compute import cluster
        from pipelines.compute.nodes import check_memory_of_nodes

        settings = self.study.settings(self.study.recipe)
        local, threads = local_resources(settings), settings.compute.cpus_per_worker
        session = cluster.session(
            self.ray_address, int(local["CPU"]), int(local.get("GPU", 0)), threads, also=("sweeps",)
        )
        there = stack.enter_context(session)
        concurrent = self.concurrent or fitting(settings, there)
        problems = check_shape(settings, there, concurrent, "the cluster")
        if problems := problems + (check_memory_of_nodes(settings) if self.ray_address else []):
            raise BadInput(problems)
        self.stop.arm()  # Ray takes SIGTERM for itself
        return concurrent

    def _open_run(self, courier: "Courier", name: str, identity: str, code: Origin) -> str:
        """The sweep's run in MLflow. Raises BadInput when MLflow does not take it."""
        from pipelines.tracking.delivery import UndeliveredError
        from pipelines.tracking.tracker import TRACKING_ERRORS

        tags = facts(code.commit) | ({"atjem.smoke": "true"} if self.study.smoke else {})
        if self.trust_checkpoint:
            tags["atjem.trust_checkpoint"] = str(self.study.recipe.settings.model.checkpoint)
        tags["atjem.workdir_id"] = self.store.identity()
        tracker, workdir = courier.tracker, str(self.store.workdir)
        try:
            tracker.close_orphans(self.store.identity())
            run_id = courier.open(tracker.open_sweep, name, identity, self._params(), tags, workdir)
        except (*TRACKING_ERRORS, UndeliveredError) as error:
            problem = Problem("--tracking-uri", self.tracking_uri, f"MLflow says: {first_line(error)}")
            raise BadInput([problem]) from error
        courier.start()
        return run_id

    def _tune(
        self, sweep: Sweep, name: str, folder: Path, run_id: str, code: Origin, concurrent: int
    ) -> None:
        from sweeps.trial import Place
        from sweeps.tuning import Mail, tune

        sweep.mail = Mail()
        place = Place(
            name,
            folder,
            self.store,
            self.tracking_uri,
            self.study.experiment,
            run_id,
            code,
            self.study.nodes,
            self.study.score,
            self.study.smoke,
            self.trust_checkpoint,
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
