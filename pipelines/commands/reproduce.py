"""A finished run made again from its record, and a verdict: `python -m pipelines reproduce RUN`."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from pipelines.commands.options import DONE, FAILED
from pipelines.files import read_json, write_json, write_text
from pipelines.fingerprint import ROOT, changes, other_files
from pipelines.problems import BadInput, Problem
from pipelines.provenance import facts, git_commit
from pipelines.reproduction import Reproduction, judged, other_circumstances
from pipelines.terminal import Terminal
from pipelines.tracking.run_archive import PastRun, find_runs, store_address
from pipelines.tracking.run_record import CHANGES_FILE, RECORD_FILE, installed, read_record
from pipelines.workdir.opening import resolve_workdir

_AGAIN = "run its pipeline command once more: finished stages are reused, and the record is logged"


def reproduce(
    run: Annotated[str, typer.Argument(metavar="RUN", help="its id, the id's first characters, or its name")],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY.PATH=VALUE",
            help="where things lie here, as data.root or an address whose secret was not kept",
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(metavar="X", help="how far a figure may be off, relative (near zero: absolute)")
    ] = 1e-6,
    into: Annotated[
        str | None, typer.Option(metavar="DIR", help="where it is made; default: WORKDIR/reproduced/ID")
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(metavar="URI", help="where RUN is logged; default: WORKDIR/mlflow.db")
    ] = None,
    workdir: Annotated[str, typer.Option(metavar="DIR", help="where RUN was made")] = "runs",
    trust_checkpoint: Annotated[
        bool,
        typer.Option(
            "--trust-checkpoint", help="unpickle the file that the run was allowed to, which may run any code"
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="end stdout with one JSON object")] = False,
) -> int:
    """Make a finished run again from its record, and judge whether its figures come out.

    Everything is computed anew, in a workdir of its own: by the code of the run then (this checkout where it
    is the same, else its commit with the changes that were kept), by its settings and its seed. The images
    must have the digests they had. Times are not judged. On one kind of CPU with the libraries of then all
    figures are equal to the last bit; GPUs, other libraries and other numbers of workers round differently,
    and training makes much of that: give such runs a --tolerance of a percent or more.

    \b
    Examples:
      reproduce 3f2a91bc
      reproduce digits --tolerance 0.02 --set data.root=/data

    Interrupted, the same command goes on; once it has ended, --into another folder computes all once more.
    Exit codes: 0 reproduced, 1 not, or a stage failed, 2 bad input, 130 interrupted.
    """
    try:
        return _reproduce(
            run, set_ or (), tolerance, into, tracking_uri, workdir, trust=trust_checkpoint, as_json=as_json
        )
    except BadInput as bad:
        if as_json:
            _print(
                {"run_id": None, "verdict": "refused", "errors": [str(problem) for problem in bad.problems]}
            )
        raise


def _reproduce(
    run: str,
    overrides: Sequence[str],
    tolerance: float,
    into: str | None,
    tracking_uri: str | None,
    workdir: str,
    *,
    trust: bool,
    as_json: bool,
) -> int:
    if not 0 <= tolerance < 1:
        raise BadInput([Problem("--tolerance", f"{tolerance:g}", "must be 0 or more, and less than 1")])
    uri = store_address(workdir, tracking_uri)
    (past,) = find_runs(uri, [run], fewest=1)
    record, data, patch = _recorded(uri, past)
    place = _place(resolve_workdir(into or str(Path(workdir) / "reproduced" / past.run_id[:8])), past)
    terminal = Terminal(to_stderr=as_json)
    recipe = place / f"{record['recipe']}.yaml"
    write_text(recipe, yaml.safe_dump(record["settings"], sort_keys=False))
    code = _code(record, patch, place)
    here = {**facts(git_commit()), "libraries": installed()}
    circumstances = list(other_circumstances(record, here))
    terminal.say(f"{past.label} again, by {'this checkout' if code == ROOT else code}, in {place}")
    for told in circumstances:
        terminal.say(f"beware: {told}", "yellow")
    words = [sys.executable, str(code / "pipelines" / "run.py"), *_options(record, recipe, place, overrides)]
    words += ["--trust-checkpoint"] * trust
    result, exit_code = _result(words)
    ids = {"run_id": past.run_id, "again": result and result["run_id"], "workdir": str(place)}
    if exit_code != DONE or result is None:
        if as_json:
            _print(ids | {"verdict": "not made"})
        return exit_code or FAILED
    found = Reproduction(
        tolerance,
        judged(past.metrics, result["metrics"], tolerance),
        changes(data, _data(result)),
        circumstances,
    )
    _show(found, terminal)
    if as_json:
        _print(ids | found.as_object())
    return DONE if found.reproduced else FAILED


def _print(value: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


def _place(place: Path, past: PastRun) -> Path:
    """The folder, if what is in it was made for this run alone. Raises BadInput."""
    mark = place / "reproduces.json"
    if (place / "artifacts").exists() and (read_json(mark) or {}).get("run_id") != past.run_id:
        allowed = "holds results that would be reused; give a folder that is new"
        raise BadInput([Problem("--into", str(place), allowed)])
    place.mkdir(parents=True, exist_ok=True)
    write_json(mark, {"run_id": past.run_id})
    return place


def _recorded(uri: str, past: PastRun) -> tuple[dict[str, Any], dict[str, str], str]:
    """A run's record, the digests of its images, and changes to its commit. Raises BadInput."""
    from pipelines.tracking.archive import Archive

    archive = Archive(uri)
    record = read_record(archive.text(past.run_id, RECORD_FILE))
    if record is None:
        raise BadInput([Problem("RUN", f"{past.label} has no {RECORD_FILE} that can be read", _AGAIN)])
    if record["smoke"]:
        raise BadInput([Problem("RUN", f"{past.label} is a smoke run", "give one whose figures count")])
    return record, archive.data(past.run_id), archive.text(past.run_id, CHANGES_FILE)


def _code(record: Mapping[str, Any], patch: str, place: Path) -> Path:
    """A folder with the code that made the run: this checkout, or a copy of what it was. Raises BadInput."""
    if not (other := other_files(record["code"], ROOT)):
        return ROOT
    commit, folder = str(record.get("git.commit", "unknown")).removesuffix("+changes"), place / "code"
    given = f"made by other code than this checkout's ({_few(other)})"
    if commit == "unknown":
        raise BadInput([Problem("RUN", f"{given}, of no commit", "check out the code that made it")])
    try:
        _unpack(commit, patch, folder)
    except (OSError, subprocess.SubprocessError) as error:
        reason = _last_line(error)
        raise BadInput(
            [Problem("RUN", f"{given}, commit {commit[:12]}", f"not to be had: {reason}")]
        ) from None
    if other := other_files(record["code"], folder):
        allowed = "secrets in changes that are not committed, or megabytes of them, are not kept"
        raise BadInput([Problem("RUN", f"{given}; {_few(other)} cannot be made again", allowed)])
    return folder


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")


def _last_line(error: Exception) -> str:
    said = getattr(error, "stderr", None) or b""
    lines = said.decode(errors="replace").strip().splitlines() or [str(error)]
    return str(lines[-1])


def _unpack(commit: str, patch: str, folder: Path) -> None:
    """The project's files at a commit, with changes laid over them."""
    if folder.is_dir():
        return  # of the same call, interrupted
    draft = folder.with_name(".code")
    shutil.rmtree(draft, ignore_errors=True)  # of another, in the middle of it
    draft.mkdir()
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=True, timeout=60
    )
    subprocess.run(["tar", "-x", "-C", str(draft)], input=archive.stdout, check=True, timeout=60)
    if patch:
        alone = {**os.environ, "GIT_CEILING_DIRECTORIES": str(draft.parent)}
        words = ["git", "-C", str(draft), "apply", "--whitespace=nowarn", "-"]
        subprocess.run(words, input=patch.encode(), capture_output=True, check=True, timeout=60, env=alone)
    draft.rename(folder)


def _options(record: Mapping[str, Any], recipe: Path, place: Path, overrides: Sequence[str]) -> Iterator[str]:
    yield from ("--pipeline", str(recipe), "--workdir", str(place), "--json")
    if record.get("until"):
        yield from ("--until", record["until"])
    for text in overrides:
        yield from ("--set", text)


def _result(words: Sequence[str]) -> tuple[dict[str, Any] | None, int]:
    """Runs a pipeline, whose progress goes to the screen. Returns its last line and its exit code."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        while True:
            try:
                out, _ = process.communicate()
                break
            except KeyboardInterrupt:  # the terminal has told the run too, which ends by itself
                continue
    lines = out.strip().splitlines()
    return (json.loads(lines[-1]) if lines else None), process.returncode


def _data(result: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the images that the run has now, as MLflow has them."""
    from pipelines.tracking.tracker import DIGEST_LENGTH

    (artifact,) = (row["artifact"] for row in result["stages"] if row["name"] == "preprocess")
    manifest = read_json(Path(artifact) / "manifest.json") or {}
    return {
        split: facts["sha256"][:DIGEST_LENGTH]
        for facts in manifest.get("datasets", {}).values()
        for split in facts["counts"]
    }


def _show(found: Reproduction, terminal: Terminal) -> None:
    apart = {name: figure for name, figure in found.figures.items() if figure.verdict != "equal"}
    rows = [
        (
            name,
            figure.verdict,
            *("" if value is None else f"{value:.9g}" for value in (figure.then, figure.now)),
        )
        for name, figure in apart.items()
    ]
    if rows:
        terminal.rows(("figure", "is", "then", "now"), rows)
    terminal.say(found.verdict, "green" if found.reproduced else "red")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"
