"""Ray Tune runs the trials: what it asks for next, when a trial ends, what the driver does meanwhile."""

import os
import shutil
from collections.abc import Callable
from typing import Any, Protocol

import ray
from ray.tune import Callback, RunConfig, TuneConfig, Tuner, with_parameters, with_resources
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from pipelines.compute.channel import open_mailbox
from sweeps.jobs import Job, Result
from sweeps.trial import RESULT, PipelineTrial, Place

_FOLDER = ".ray_tune"  # Ray Tune's own books; ours are the study


class Mail:
    """How far trials are, and the wish that they end; between their processes and the driver."""

    def __init__(self) -> None:
        self.box = open_mailbox()

    def progress(self) -> dict[str, dict[str, Any]]:
        """The latest reports since the last call, by job and node."""
        progress, _points, _notes = ray.get(self.box.take.remote())
        return dict(progress)

    def stop(self) -> None:
        ray.get(self.box.stop.remote())


class Source(Protocol):
    """Where jobs come from, and who is told how they went."""

    def next(self) -> Job | None:
        """A job to run now, or None when there is none yet."""

    def exhausted(self) -> bool:
        """True when no job is to come, whatever the running ones bring."""

    def looked(self, job: Job, result: Result) -> bool:
        """A rung was reached. Returns True to end the job there."""

    def ended(self, job: Job, result: Result | None) -> None:
        """A job ended; None when its process died."""

    def turn(self) -> None:
        """Called all the time while jobs run."""


def tune(place: Place, source: Source, concurrent: int) -> None:
    """Runs jobs until the source is exhausted. The caller's node serves them; their stages run anywhere."""
    _prepare_environment()
    desk = _Desk(source)
    node = {"CPU": 0, f"node:{ray.util.get_node_ip_address()}": 0.001}
    trainable = with_resources(with_parameters(PipelineTrial, place=place), PlacementGroupFactory([node]))
    Tuner(
        trainable,
        tune_config=TuneConfig(
            search_alg=_Suggestions(desk),
            scheduler=_Looks(desk),
            num_samples=-1,
            max_concurrent_trials=concurrent,
            reuse_actors=True,  # a process serves one job after another: starting one takes seconds
        ),
        run_config=RunConfig(
            name=_FOLDER, storage_path=str(place.folder), callbacks=[_Turns(desk)], verbose=0
        ),
    ).fit()
    shutil.rmtree(place.folder / _FOLDER, ignore_errors=True)


def _prepare_environment() -> None:
    """Ray Tune stays silent, keeps no books of its own that matter, and leaves signals to the driver."""
    for name, value in {
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in recipes start where the user is
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    }.items():
        os.environ.setdefault(name, value)


class _Desk:
    """Jobs by Ray Tune's names for them."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.jobs: dict[str, Job] = {}

    def __deepcopy__(self, _memo: Any) -> "_Desk":
        return self

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        """Ray Tune saves its parts now and then; ours live in the study."""
        return _nothing, ()


def _nothing() -> None:
    return None


class _Suggestions(Searcher):
    def __init__(self, desk: _Desk) -> None:
        super().__init__(metric=None, mode=None)
        self.desk = desk

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        job = self.desk.source.next()
        if job is None:
            return Searcher.FINISHED if self.desk.source.exhausted() else None
        self.desk.jobs[trial_id] = job
        return {"job": job}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if (job := self.desk.jobs.pop(trial_id, None)) is not None:
            self.desk.source.ended(job, None if error or result is None else result[RESULT])

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


class _Looks(FIFOScheduler):
    def __init__(self, desk: _Desk) -> None:
        super().__init__()
        self.desk = desk

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        came = result[RESULT]
        ends = came.outcome == "rung" and self.desk.source.looked(self.desk.jobs[trial.trial_id], came)
        return str(FIFOScheduler.STOP if ends else FIFOScheduler.CONTINUE)


class _Turns(Callback):
    def __init__(self, desk: _Desk) -> None:
        self.desk = desk

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.desk.source.turn()
