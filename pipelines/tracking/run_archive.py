"""Finished pipeline runs as their tracking store holds them, found by id, by its beginning or by name."""

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipelines.preflight.places import check_tracking
from pipelines.problems import BadInput, Problem, first_line

if TYPE_CHECKING:
    from pipelines.tracking.archive import Archive

_PREFIX_LENGTH = 4  # of an id, the fewest characters that may stand for it
_LISTED = 5  # runs that an error names
_SAME = 1e-6  # accuracies are stored in double precision, made in single
_DIGITS = 20  # of a seed, at most
_HUGE = 1e300  # MLflow stores infinity as the largest number there is
_DONE = "tags.`atjem.kind` = 'pipeline' AND tags.`atjem.status` = 'done'"


@dataclass(frozen=True)
class PastRun:
    """One run of a store. `protocols` is None where the run says nothing of what its figures depend on.

    `outcomes`: of an accuracy, a digit an image, 1 where it is counted; older runs have none.
    """

    run_id: str
    name: str
    recipe: str  # its experiment's name
    started: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    protocols: Mapping[str, Mapping[str, Any]] | None = None
    outcomes: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.name} ({self.run_id[:8]})"

    @property
    def seed(self) -> int | str | None:
        seed = self.params.get("seed")
        return int(seed) if seed is not None and seed.isdecimal() and len(seed) < _DIGITS else seed


def store_address(workdir: str, tracking_uri: str | None) -> str:
    """The store's address: the one given, or the workdir's own. Raises BadInput when nothing is there."""
    if tracking_uri is None:
        path = Path(workdir).expanduser().absolute() / "mlflow.db"
        uri, where, given = f"sqlite:///{path}", "--workdir", repr(workdir)
    else:
        path = Path(tracking_uri.removeprefix("sqlite:///").partition("?")[0])
        uri, where, given = tracking_uri, "--tracking-uri", tracking_uri
    if not uri.startswith("sqlite:///"):
        problems = check_tracking(uri)
    else:
        reason = _unreadable(path)
        problems = [Problem(where, given, f"{reason}; give another, or --tracking-uri")] if reason else []
    if problems:
        raise BadInput(problems)
    return uri


def find_runs(uri: str, words: Sequence[str], *, fewest: int = 2) -> list[PastRun]:
    """The finished pipeline runs that the words name, in their order. Raises BadInput with every problem."""
    from pipelines.tracking.archive import Archive
    from pipelines.tracking.tracker import TRACKING_ERRORS

    try:
        archive = Archive(uri)
        done = list(_past_runs(archive, _DONE))
        found = [(word, matching(word, done)) for word in words]
        others = list(_past_runs(archive, "")) if any(not runs for _, runs in found) else []
        if problems := [*_misnamed(found, done, others), *_repeated(found, fewest)]:
            raise BadInput(problems)
        return [_with_files(archive, run) for _, [run] in found]
    except TRACKING_ERRORS as error:
        raise BadInput([Problem("--tracking-uri", uri, f"MLflow says: {first_line(error)}")]) from error


def matching(word: str, runs: Iterable[PastRun]) -> list[PastRun]:
    """Runs of this id, or else those of this name or whose id begins with the word.

    Of several runs with one name and one fingerprint, which hold the same figures, the newest.
    """
    runs = list(runs)
    if exact := [run for run in runs if run.run_id == word]:
        return exact
    named: dict[str, PastRun] = {}
    for run in runs:
        if run.name == word:
            named.setdefault(run.tags.get("atjem.fingerprint", run.run_id), run)
    return [*named.values(), *(run for run in runs if run.name != word and _begins(run, word))]


def _begins(run: PastRun, word: str) -> bool:
    return len(word) >= _PREFIX_LENGTH and run.run_id.startswith(word)


def _misnamed(
    found: Iterable[tuple[str, list[PastRun]]], done: list[PastRun], others: list[PastRun]
) -> Iterator[Problem]:
    """Words that stand for no finished pipeline run, or for several."""
    for word, runs in found:
        if not runs:
            yield _unfound(word, done, others)
        elif len(runs) > 1:
            listed = ", ".join(f"{run.run_id[:8]} ({run.name}, {run.started})" for run in runs[:_LISTED])
            more = f" and {len(runs) - _LISTED} more" if len(runs) > _LISTED else ""
            yield Problem("RUN", f"{word!r} stands for {len(runs)} runs", f"give one's id: {listed}{more}")


def _unfound(word: str, done: list[PastRun], others: list[PastRun]) -> Problem:
    """Why a word names no finished pipeline run, and what to give instead."""
    pipelines = [run for run in others if run.tags.get("atjem.kind") == "pipeline"]
    for run in matching(word, pipelines):
        given = f"{run.label} is {run.tags.get('atjem.status', 'unfinished')}"
        return Problem("RUN", given, "finish it first: its command again goes on with it")
    for run in others:
        if run.run_id == word or _begins(run, word):
            parent = next((p for p in pipelines if p.run_id == run.tags.get("mlflow.parentRunId")), None)
            given = f"{run.label} is a stage's run" if parent else f"{run.label} is no pipeline run"
            return Problem("RUN", given, f"give its pipeline's: {parent.label}" if parent else _advice(done))
    near = get_close_matches(word, [run.name for run in done], n=1)
    advice = f"did you mean {near[0]!r}?" if near else _advice(done)
    return Problem("RUN", f"{word!r} names no finished pipeline run", advice)


def _advice(done: list[PastRun]) -> str:
    if not done:
        return "there is none here yet; `python -m pipelines run` makes one"
    listed = ", ".join(run.label for run in done[:_LISTED])
    return f"give an id, its first {_PREFIX_LENGTH} characters or more, or a name; the latest: {listed}"


def _repeated(found: Sequence[tuple[str, list[PastRun]]], fewest: int) -> Iterator[Problem]:
    """Too few runs to compare, or one run under two words."""
    if len(found) < fewest:
        yield Problem("RUN", "only one given", "a comparison needs two or more")
    first: dict[str, str] = {}
    for word, runs in found:
        for run in runs if len(runs) == 1 else []:
            if run.run_id in first:
                given = f"{first[run.run_id]!r} and {word!r} are one run, {run.label}"
                yield Problem("RUN", given, "name it once")
            first.setdefault(run.run_id, word)


def _past_runs(archive: "Archive", query: str) -> Iterator[PastRun]:
    """Runs that answer a query. A figure that is no finite number counts as absent."""
    for run, experiment in archive.runs(query):
        metrics = run.data.metrics.items()
        yield PastRun(
            run_id=run.info.run_id,
            name=run.info.run_name or run.info.run_id,
            recipe=experiment,
            started=f"{datetime.fromtimestamp(run.info.start_time / 1000):%Y-%m-%d %H:%M}",
            params=run.data.params,
            metrics={name: value for name, value in metrics if math.isfinite(value) and abs(value) < _HUGE},
            tags=run.data.tags,
        )


def _with_files(archive: "Archive", run: PastRun) -> PastRun:
    """The run with what its figures depend on, and with the outcomes of each image."""
    from pipelines.tracking.tracker import OUTCOMES_FILE, PROTOCOLS_FILE

    protocols = _mapping_of(dict, archive, run.run_id, PROTOCOLS_FILE)
    outcomes = _mapping_of(str, archive, run.run_id, OUTCOMES_FILE) or {}
    sound = {name: each for name, each in outcomes.items() if _is_sound(each, run.metrics.get(name))}
    return replace(run, protocols=protocols, outcomes=sound)


def _is_sound(outcomes: str, accuracy: float | None) -> bool:
    """Whether it is a digit an image, whose mean is the accuracy."""
    if not outcomes or not set(outcomes) <= set("01") or accuracy is None:
        return False
    return abs(outcomes.count("1") / len(outcomes) - accuracy) < _SAME


def _mapping_of(kind: type, archive: "Archive", run_id: str, file: str) -> dict[str, Any] | None:
    """A run's JSON file; None when it has none, an empty one, or one whose values are not of the kind."""
    try:
        found = json.loads(archive.text(run_id, file), parse_constant=str)
    except (ValueError, RecursionError):
        return None
    sound = isinstance(found, dict) and all(isinstance(value, kind) for value in found.values())
    return found if sound and found else None


def _unreadable(path: Path) -> str:
    """Why MLflow cannot read its SQLite file; empty when it can. The file is neither made nor changed."""
    if set("?%") & set(str(path)):
        return "MLflow's SQLite address cannot hold a ? or %"
    if not path.is_file():
        return f"there is no {path.name}, the database that runs are logged in"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
            database.execute("SELECT 1 FROM experiments").close()
    except sqlite3.Error as error:
        return f"{path.name} is no database of MLflow's ({error})"
    return ""
