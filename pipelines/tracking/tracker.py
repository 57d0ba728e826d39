"""MLflow, all of it: one experiment a recipe, one parent run a pipeline run, one child run a stage.

Only the driver writes, by way of its outbox (`courier.py`). A run is found again by its tags, so an
interrupted pipeline goes on in its own runs. Each call may be made again, whatever became of it before:
nothing is logged twice.
"""

import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException
from PIL import Image
from sqlalchemy.exc import SQLAlchemyError

from data.redact import redact
from pipelines.fingerprint import digest
from pipelines.tracking.driver import driver_name, is_gone
from pipelines.tracking.records import Record
from pipelines.tracking.refusals import is_refusal
from pipelines.trial import Trial

PROTOCOLS_FILE = "protocols.json"
OUTCOMES_FILE = "outcomes.json"  # by accuracy, which of its images are counted
_BATCH = 500  # entries a call; the server takes up to 1,000
DIGEST_LENGTH = 36  # the longest that MLflow takes
_OPEN = "RUNNING"
_RECORD = "atjem.record"  # tag: the record that a run was made for
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_LONGEST = 160  # seconds that a slow server may take for one answer
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


class Tracker:
    """The tracking store of one recipe. Asks it nothing until it must; then TRACKING_ERRORS may come."""

    def __init__(self, uri: str, experiment: str, artifacts: Path | None) -> None:
        """`artifacts`: where a local store's experiment keeps files; None leaves it to the server."""
        self._timeout = _bound_waiting(
            retries=0
        )  # the courier tries again, and looks what became of the last try
        self.uri, self.experiment, self._artifacts = uri, experiment, artifacts
        mlflow.set_tracking_uri(uri)
        self._logged: dict[tuple[str, str], int] = {}
        self._record: Record | None = None  # that is being delivered, and its driver
        self._driver = driver_name()

    @cached_property
    def client(self) -> MlflowClient:
        return connect(self.uri, retries=0)

    @cached_property
    def experiment_id(self) -> str:
        """Of the experiment, which is made if it is not there."""
        found = self.client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        location = None
        if self._artifacts is not None:
            location = (self._artifacts / self.experiment).resolve().as_uri()
        return str(self.client.create_experiment(self.experiment, location, _EXPERIMENT_TAGS))

    def perform(
        self, record: Record, args: Iterable[Any], kwargs: Mapping[str, Any], driver: str
    ) -> str | None:
        """Calls what a record names, as its driver would have then. Returns the run that it opened."""
        self._record, self._driver = record, driver
        try:
            result = getattr(self, record.call)(*args, **kwargs)
        except (MlflowException, requests.Timeout) as error:
            if isinstance(error.__cause__ or error, requests.Timeout):  # it may be at work on it, slowly
                os.environ[_TIMEOUT] = str(min(2 * int(os.environ[_TIMEOUT]), max(_LONGEST, self._timeout)))
            raise
        finally:
            self._record = None
        os.environ[_TIMEOUT] = str(self._timeout)
        return str(result) if record.name else None

    def open_parent(
        self,
        fingerprint: str,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        *,
        trial: Trial | None = None,
    ) -> str:
        """The unfinished run of this very pipeline, reopened, or a new one. Returns its id.

        A run that its process still works on is left alone. A trial of a sweep has one run, whatever
        becomes of it, under the sweep's; its repeats have theirs under its own.
        """
        if trial is not None:
            found, parent = self._runs_of(trial)
            unfinished = found
            tags = {**tags, "atjem.sweep": trial.sweep, "atjem.trial": trial.name}
            tags["mlflow.parentRunId"] = parent
        else:
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
        tags["atjem.driver"] = self._driver
        if unfinished and not self._made(found):
            return self._reopen(unfinished[0], tags)
        source = "pipelines/run.py" if trial is None else "sweeps/tune_pgd.py"
        run_id = self._made(found) or self._create(name, {**tags, "mlflow.source.name": source})
        self._params(run_id, params)
        return run_id

    def open_sweep(
        self, name: str, identity: str, params: Mapping[str, str], tags: Mapping[str, str], workdir: str
    ) -> str:
        """The sweep's run, reopened, or a new one. Returns its id.

        identity: tells the sweep from others of its name.
        """
        tags = {**tags, "atjem.kind": "sweep", "atjem.sweep": name, "atjem.workdir": workdir}
        tags["atjem.identity"] = identity
        tags |= {"atjem.status": "running", "atjem.driver": self._driver}
        found = self._search(f"tags.`atjem.kind` = 'sweep' AND tags.`atjem.identity` = '{identity}'")
        if found and not self._made(found):
            return self._reopen(found[0], tags)
        run_id = self._made(found) or self._create(name, {**tags, "mlflow.source.name": "sweeps/tune_pgd.py"})
        self._params(run_id, params)
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

    def children(self, run_id: str) -> set[str]:
        """The runs of the stages under a pipeline run."""
        return {run.info.run_id for run in self._search(f"tags.`mlflow.parentRunId` = '{run_id}'")}

    def parent_of(self, run_id: str) -> str | None:
        """The pipeline run that a stage's run belongs to; None when this store does not know it."""
        try:
            return self.client.get_run(run_id).data.tags.get("mlflow.parentRunId")
        except MlflowException as error:
            if not is_refusal(error):
                raise
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
        now = self._now()
        new = [Metric(key, value, now, 0) for key, value in metrics.items() if there.get(key) != value]
        self._log_metrics(run_id, new)

    def points(self, run_id: str, points: Iterable[Mapping[str, float]], prefix: str = "") -> None:
        """Curve points with a 'step'; steps up to the last one logged are passed over."""
        now, last, new = self._now(), dict[str, int](), []
        for point in points:
            step = int(point["step"])
            for key, value in ((prefix + name, value) for name, value in point.items() if name != "step"):
                if step > (last[key] if key in last else self._last_step(run_id, key)):
                    new.append(Metric(key, float(value), now, step))
                    last[key] = step
        self._log_metrics(run_id, new)
        self._logged |= {(run_id, key): step for key, step in last.items()}

    def datasets(self, run_id: str, datasets: Mapping[str, Mapping[str, Any]]) -> None:
        """Dataset inputs from what preprocess says: {name: {source, sha256, counts}}."""
        if self.client.get_run(run_id).inputs.dataset_inputs:
            return
        inputs = [
            DatasetInput(
                Dataset(
                    name=split,
                    digest=facts["sha256"][:DIGEST_LENGTH],
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

    def texts(self, run_id: str, texts: Mapping[str, str]) -> None:
        """Files at the root of a run's artifacts, by their names."""
        for name, text in texts.items():
            self.client.log_text(run_id, text, name)

    def image(self, run_ids: Iterable[str], path: Path, name: str) -> None:
        """A picture, seen in each run's page."""
        with Image.open(path) as picture:
            for run_id in run_ids:
                self.client.log_image(run_id, picture.convert("RGB"), artifact_file=f"figures/{name}.png")

    def file(self, run_ids: Iterable[str], path: Path) -> None:
        for run_id in run_ids:
            self.client.log_artifact(run_id, str(path))

    def model(self, run_id: str, folder: Path, name: str) -> None:
        """Logs an artifact's model, for `mlflow.pytorch.load_model`; goes on with one that was cut off."""
        run = self.client.get_run(run_id)
        found = self.client.search_logged_models([self.experiment_id], f"source_run_id = '{run_id}'")
        logged = found[0] if found else None
        if logged is None:
            logged = self.client.create_logged_model(
                self.experiment_id, name, run_id, params=dict(run.data.params)
            )
        if logged.status == LoggedModelStatus.READY:
            return
        if run.outputs is None or not run.outputs.model_outputs:
            self.client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        self._give_figures(run, logged.model_id)
        from atjem.checkpoint import load

        mlflow.pytorch.log_model(
            load(folder),
            name=name,
            model_id=logged.model_id,
            serialization_format="pickle",
            pip_requirements=[f"torch=={version('torch')}"],
        )

    def close(self, run_id: str, status: str, reason: str = "") -> None:
        """status: done, failed, interrupted or pruned."""
        ended = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "pruned": "FINISHED"}[
            status
        ]
        self.tag(run_id, {"atjem.status": status, **({"atjem.reason": reason} if reason else {})})
        self.client.set_terminated(run_id, ended, self._now())

    def close_orphans(self, alone_in: str | None) -> None:
        """Runs left RUNNING by a driver that is gone become KILLED.

        `alone_in`: identity of the workdir whose lock the caller holds; whatever else says that it runs there
        has died.
        """
        for run in self._search(f"attributes.status = '{_OPEN}' AND tags.`atjem.driver` != ''"):
            tags = run.data.tags
            if is_gone(tags.get("atjem.driver", "")) or tags.get("atjem.workdir_id") == (
                alone_in or "nowhere"
            ):
                self._close_all(run, "interrupted", "its process ended without a word")

    def _now(self) -> int:
        """When there was something to tell, in milliseconds."""
        return int(time.time() * 1000) if self._record is None else self._record.time

    def _made(self, runs: Iterable[Run]) -> str | None:
        """The run that this record has made already, on a try whose answer was lost."""
        name = self._record and self._record.name
        ids = (run.info.run_id for run in runs if name and run.data.tags.get(_RECORD) == name)
        return next(ids, None)

    def _params(self, run_id: str, params: Mapping[str, Any]) -> None:
        entries = [Param(key, redact(str(value))[:5000]) for key, value in params.items()]
        self.client.log_batch(run_id, params=entries)

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        tags = {key: redact(str(value))[:5000] for key, value in tags.items()}
        if self._record and self._record.name:
            tags[_RECORD] = self._record.name
        run: Run = self.client.create_run(self.experiment_id, self._now(), tags, name)
        return str(run.info.run_id)

    def _reopen(self, run: Run, tags: Mapping[str, str]) -> str:
        self.client.update_run(run.info.run_id, status=_OPEN)
        self.tag(run.info.run_id, tags)
        return str(run.info.run_id)

    def _search(self, query: str) -> list[Run]:
        """The newest first."""
        order, found, token = ["attributes.start_time DESC"], list[Run](), None
        while token is None or token:
            page = self.client.search_runs([self.experiment_id], query, order_by=order, page_token=token)
            found, token = [*found, *page], page.token or ""
        return found

    def _runs_of(self, trial: Trial) -> tuple[list[Run], str]:
        """The trial's run, if it has one, and its parent's: the sweep's run, or a repeat's trial's."""
        parent = trial.parent
        if trial.seed is not None:
            own, _ = self._runs_of(replace(trial, seed=None))
            parent = own[0].info.run_id if own else parent
        named = f"tags.`atjem.trial` = '{trial.name}'"
        return self._search(f"{named} AND tags.`mlflow.parentRunId` = '{parent}'"), parent

    def _close_all(self, run: Run, status: str, reason: str) -> None:
        """A run, and what is open of its children."""
        query = f"attributes.status = '{_OPEN}' AND tags.`mlflow.parentRunId` = '{run.info.run_id}'"
        for own in (*self._search(query), run):
            self.close(own.info.run_id, status, reason)

    def _last_step(self, run_id: str, key: str) -> int:
        if (run_id, key) not in self._logged:
            history = self.client.get_metric_history(run_id, key)
            self._logged[run_id, key] = max((metric.step for metric in history), default=-1)
        return self._logged[run_id, key]

    def _log_metrics(self, run_id: str, metrics: list[Metric]) -> None:
        for start in range(0, len(metrics), _BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + _BATCH])

    def _give_figures(self, run: Run, model_id: str) -> None:
        """The run's final figures, seen on its model's page too."""
        found = [self.client.get_metric_history(run.info.run_id, key) for key in run.data.metrics]
        figures = [
            Metric(own.key, own.value, own.timestamp, 0, model_id=model_id)
            for history in found
            for own in history
            if own.step == 0 and own.model_id is None
        ]
        self._log_metrics(run.info.run_id, figures)


def connect(uri: str, retries: int) -> MlflowClient:
    """A client of a store. An unreachable server is an error after seconds, not minutes."""
    _bound_waiting(retries)
    return MlflowClient(uri)


def _bound_waiting(retries: int) -> int:
    """Also keeps MLflow's chatter off the screen. Returns the seconds that a server gets to answer."""
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = str(retries)
    os.environ.setdefault(_TIMEOUT, "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name in ("mlflow", "alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return int(os.environ[_TIMEOUT])
