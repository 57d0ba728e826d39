"""MLflow, all of it: one experiment a recipe, one parent run a pipeline run, one child run a stage.

Only the driver writes. A run is found again by its tags, so an interrupted pipeline goes on in its own
runs; points that were logged already are not logged twice.
"""

import logging
import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import psutil
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from PIL import Image
from sqlalchemy.exc import SQLAlchemyError

from data.redact import redact
from pipelines.fingerprint import digest

PROTOCOLS_FILE = "protocols.json"
_BATCH = 500  # entries a call; the server takes up to 1,000
_DIGEST_LENGTH = 36  # the longest that MLflow takes
_OPEN = "RUNNING"
_EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # the UI's view of training runs, not of chats
    "mlflow.note.content": (
        "Joint energy models trained by one recipe. Each run is a pipeline run, named by what was changed; "
        "its children are the stages that it ran. Mark two runs and press Compare; figures, samples and "
        "`report.html` are among a run's artifacts."
    ),
}

# What a store may answer when it cannot do what it was asked: MLflow's, its database's, a missing driver's.
TRACKING_ERRORS = (MlflowException, SQLAlchemyError, ModuleNotFoundError, OSError)


@dataclass(frozen=True)
class Trial:
    """A pipeline run's place in a sweep, whose run is `parent`. `seed`: of a repeat."""

    sweep: str
    parent: str
    number: int
    seed: int | None
    rung: int | None  # training steps after which it is looked at; None in full

    @property
    def name(self) -> str:
        """The same whenever the trial is run."""
        return f"{self.sweep}/{self.number}" + ("" if self.seed is None else f"/seed {self.seed}")


class Tracker:
    """The tracking store of one recipe. Raises MlflowException when the store cannot be reached."""

    def __init__(self, uri: str, experiment: str, artifacts: Path | None) -> None:
        """`artifacts`: where a local store's experiment keeps files; None leaves it to the server."""
        _bound_waiting()
        self.uri = uri
        mlflow.set_tracking_uri(uri)
        self.client = MlflowClient(uri)
        found = self.client.get_experiment_by_name(experiment)
        if found is not None:
            self.experiment_id = found.experiment_id
        else:
            location = None if artifacts is None else (artifacts / experiment).resolve().as_uri()
            self.experiment_id = self.client.create_experiment(experiment, location, _EXPERIMENT_TAGS)
        self._logged: dict[tuple[str, str], int] = {}

    def open_parent(
        self,
        fingerprint: str,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        *,
        alone_in: str | None = None,
        trial: Trial | None = None,
    ) -> str:
        """The unfinished run of this very pipeline, reopened, or a new one. Returns its id.

        A run that its process still works on is left alone. `alone_in` names the workdir whose lock the
        caller holds: whatever else says that it runs there has died. A trial of a sweep has one run, whatever
        becomes of it, under the sweep's; its repeats have theirs under its own.
        """
        if trial is not None:
            unfinished, parent = self._runs_of(trial)
            tags = {**tags, "atjem.sweep": trial.sweep, "atjem.trial": trial.name}
            tags["mlflow.parentRunId"] = parent
        else:
            self._close_orphans(alone_in)
            found = self._search(
                f"tags.`atjem.kind` = 'pipeline' AND tags.`atjem.fingerprint` = '{fingerprint}'"
            )
            unfinished = [
                run
                for run in found
                if run.data.tags.get("atjem.status") != "done"
                and run.info.status != _OPEN
                and "atjem.trial" not in run.data.tags
            ]
        tags = {**tags, "atjem.kind": "pipeline", "atjem.fingerprint": fingerprint, "atjem.status": "running"}
        tags["atjem.driver"] = _driver()
        if unfinished:
            return self._reopen(unfinished[0], tags)
        source = "pipelines/run.py" if trial is None else "sweeps/tune_pgd.py"
        run_id = self._create(name, {**tags, "mlflow.source.name": source})
        entries = [Param(key, redact(str(value))) for key, value in params.items()]
        self.client.log_batch(run_id, params=entries)
        return run_id

    def open_sweep(
        self, name: str, identity: str, params: Mapping[str, str], tags: Mapping[str, str], workdir: str
    ) -> str:
        """The sweep's run, reopened, or a new one. The caller holds the workdir's lock. Returns its id.

        identity: tells the sweep from others of its name.
        """
        self._close_orphans(workdir)
        tags = {**tags, "atjem.kind": "sweep", "atjem.sweep": name, "atjem.workdir": workdir}
        tags["atjem.identity"] = identity
        tags |= {"atjem.status": "running", "atjem.driver": _driver()}
        if found := self._search(f"tags.`atjem.kind` = 'sweep' AND tags.`atjem.identity` = '{identity}'"):
            return self._reopen(found[0], tags)
        run_id = self._create(name, {**tags, "mlflow.source.name": "sweeps/tune_pgd.py"})
        self.client.log_batch(
            run_id, params=[Param(key, redact(value)[:5000]) for key, value in params.items()]
        )
        return run_id

    def fail_trial(self, trial: Trial, reason: str) -> None:
        """Closes the runs of a trial whose process died."""
        for run in self._runs_of(trial)[0]:
            self._close_all(run, "failed", reason)

    def sweep_results(
        self,
        run_id: str,
        figures: Mapping[str, float],
        note: str,
        files: Iterable[Path],
        pictures: Iterable[Path],
    ) -> None:
        """What a sweep found, on its own run."""
        self.metrics(run_id, figures)
        self.tag(run_id, {"mlflow.note.content": note})
        for file in files:
            self.file([run_id], file)
        for picture in pictures:
            self.image([run_id], picture, picture.stem)

    def open_stage(
        self, parent: str, stage: str, fingerprint: str, tags: Mapping[str, str], name: str = ""
    ) -> str:
        """The stage's unfinished run under this parent, reopened, or a new one. Returns its id.

        name: how people see it, where the stage's alone does not tell.
        """
        found = self._search(f"tags.`mlflow.parentRunId` = '{parent}' AND tags.`atjem.stage` = '{stage}'")
        same = [run for run in found if run.data.tags.get("atjem.fingerprint") == fingerprint]
        tags = {**tags, "atjem.status": "running"}
        if same:
            return self._reopen(same[0], tags)
        tags |= {"mlflow.parentRunId": parent, "atjem.stage": stage, "atjem.fingerprint": fingerprint}
        return self._create(name or stage, tags)

    def parent_of(self, run_id: str) -> str | None:
        """The pipeline run that a stage's run belongs to; None when this store does not know it."""
        try:
            return self.client.get_run(run_id).data.tags.get("mlflow.parentRunId")
        except MlflowException:
            return None

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        entries = [RunTag(key, redact(str(value))[:5000]) for key, value in tags.items()]
        self.client.log_batch(run_id, tags=entries)

    def describe(self, run_id: str, text: str, picture_run: str, picture: str) -> None:
        """What the run's page begins with: a picture out of a run of this store, and words below it."""
        if self.parent_of(picture_run) is not None:
            text = f"![{picture}](get-artifact?path={picture}&run_uuid={picture_run})\n\n{text}"
        self.tag(run_id, {"mlflow.note.content": text})

    def metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Final figures, shown in this order; one that is there with the same value is left alone."""
        there = self.client.get_run(run_id).data.metrics
        now = int(time.time() * 1000)
        new = [Metric(key, value, now, 0) for key, value in metrics.items() if there.get(key) != value]
        self._log_metrics(run_id, new)

    def points(self, run_id: str, points: Iterable[Mapping[str, float]], prefix: str = "") -> None:
        """Curve points with a 'step'; steps up to the last one logged are passed over."""
        now = int(time.time() * 1000)
        new = []
        for point in points:
            step = int(point["step"])
            for name, value in point.items():
                if name != "step" and step > self._last_step(run_id, key := prefix + name):
                    new.append(Metric(key, float(value), now, step))
                    self._logged[run_id, key] = step
        self._log_metrics(run_id, new)

    def datasets(self, run_id: str, datasets: Mapping[str, Mapping[str, Any]]) -> None:
        """Dataset inputs from what preprocess says: {name: {source, sha256, counts}}."""
        if self.client.get_run(run_id).inputs.dataset_inputs:
            return
        inputs = [
            DatasetInput(
                Dataset(
                    name=split,
                    digest=facts["sha256"][:_DIGEST_LENGTH],
                    source_type="local",
                    source=f'{{"uri": "{redact(str(facts["source"]))}"}}',
                    profile=f'{{"num_images": {count}}}',
                ),
                [InputTag("mlflow.data.context", split)],
            )
            for facts in datasets.values()
            for split, count in facts["counts"].items()
        ]
        self.client.log_inputs(run_id, inputs)

    def protocols(self, run_id: str, protocols: Mapping[str, Mapping[str, Any]]) -> None:
        """What each figure depends on: all of it in a file, and a digest of each to search by."""
        self.client.log_dict(run_id, dict(protocols), PROTOCOLS_FILE)
        self.tag(run_id, {f"atjem.protocol.{name}": digest(own) for name, own in protocols.items()})

    def image(self, run_ids: Iterable[str], path: Path, name: str) -> None:
        """A picture, seen in each run's page."""
        with Image.open(path) as picture:
            for run_id in run_ids:
                self.client.log_image(run_id, picture.convert("RGB"), artifact_file=f"figures/{name}.png")

    def file(self, run_ids: Iterable[str], path: Path) -> None:
        for run_id in run_ids:
            self.client.log_artifact(run_id, str(path))

    def model(self, run_id: str, model: Any, name: str) -> str:
        """Logs a torch model so that `mlflow.pytorch.load_model` loads it. Returns the model's URI."""
        logged = self.client.get_run(run_id).outputs
        if logged is not None and logged.model_outputs:
            return f"models:/{logged.model_outputs[0].model_id}"
        with mlflow.start_run(run_id=run_id):
            info = mlflow.pytorch.log_model(
                model,
                name=name,
                serialization_format="pickle",
                pip_requirements=[f"torch=={version('torch')}"],
            )
        return str(info.model_uri)

    def close(self, run_id: str, status: str, reason: str = "") -> None:
        """status: done, failed, interrupted or pruned."""
        ended = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "pruned": "FINISHED"}[
            status
        ]
        self.tag(run_id, {"atjem.status": status, **({"atjem.reason": reason} if reason else {})})
        self.client.set_terminated(run_id, ended)

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        tags = {key: redact(str(value))[:5000] for key, value in tags.items()}
        run: Run = self.client.create_run(self.experiment_id, tags=tags, run_name=name)
        return str(run.info.run_id)

    def _reopen(self, run: Run, tags: Mapping[str, str]) -> str:
        self.client.update_run(run.info.run_id, status=_OPEN)
        self.tag(run.info.run_id, tags)
        return str(run.info.run_id)

    def _search(self, query: str) -> list[Run]:
        order = ["attributes.start_time DESC"]
        return list(self.client.search_runs([self.experiment_id], query, order_by=order, max_results=50))

    def _runs_of(self, trial: Trial) -> tuple[list[Run], str]:
        """The trial's run, if it has one, and its parent's: the sweep's run, or a repeat's trial's."""
        parent = trial.parent
        if trial.seed is not None:
            own, _ = self._runs_of(replace(trial, seed=None))
            parent = own[0].info.run_id if own else parent
        named = f"tags.`atjem.trial` = '{trial.name}'"
        return self._search(f"{named} AND tags.`mlflow.parentRunId` = '{parent}'"), parent

    def _close_orphans(self, alone_in: str | None) -> None:
        """Runs left RUNNING by a driver that is gone become KILLED."""
        for run in self._search(f"attributes.status = '{_OPEN}' AND tags.`atjem.driver` != ''"):
            tags = run.data.tags
            if _is_gone(tags.get("atjem.driver", "")) or tags.get("atjem.workdir") == (alone_in or "nowhere"):
                self._close_all(run, "interrupted", "its process ended without a word")

    def _close_all(self, run: Run, status: str, reason: str) -> None:
        """A run, and what is open of its children."""
        query = f"attributes.status = '{_OPEN}' AND tags.`mlflow.parentRunId` = '{run.info.run_id}'"
        for own in (*self._search(query), run):
            self.close(own.info.run_id, status, reason)

    def _last_step(self, run_id: str, key: str) -> int:
        if (run_id, key) not in self._logged:
            try:
                history = self.client.get_metric_history(run_id, key)
            except MlflowException:
                history = []
            self._logged[run_id, key] = max((metric.step for metric in history), default=-1)
        return self._logged[run_id, key]

    def _log_metrics(self, run_id: str, metrics: list[Metric]) -> None:
        for start in range(0, len(metrics), _BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + _BATCH])


def _driver() -> str:
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.0f}"


def _is_gone(driver: str) -> bool:
    """True when the process was on this machine and no longer is."""
    host, _, rest = driver.partition(":")
    pid, _, created = rest.partition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(created)) > 2
    except psutil.NoSuchProcess:
        return True


def _bound_waiting() -> None:
    """An unreachable server is an error after seconds, not minutes; MLflow's chatter stays off the screen."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.ERROR)


class Archive:
    """The runs of a whole store, for reading. Raises TRACKING_ERRORS when the store cannot be read."""

    def __init__(self, uri: str) -> None:
        _bound_waiting()
        self.client = MlflowClient(uri)

    def runs(self, query: str) -> list[tuple[Run, str]]:
        """Every run that answers a query, newest first, with its experiment's name."""
        experiments = _every(lambda token: self.client.search_experiments(page_token=token))
        names = {experiment.experiment_id: experiment.name for experiment in experiments}
        runs = _every(lambda token: self.client.search_runs(list(names), query, page_token=token))
        return [(run, names[run.info.experiment_id]) for run in runs]

    def file(self, run_id: str, name: str, folder: Path) -> Path | None:
        """Copies a file at the root of a run's artifacts into a folder; None when it is not there."""
        if name not in {file.path for file in self.client.list_artifacts(run_id)}:
            return None
        return Path(self.client.download_artifacts(run_id, name, str(folder)))


def _every(search: Any) -> list[Any]:
    """All pages of a search: `search(token)`, where None begins."""
    page = search(None)
    found = list(page)
    while page.token:
        page = search(page.token)
        found += page
    return found
