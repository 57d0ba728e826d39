"""What of a workdir no run needs any more, and its removal: `python -m pipelines gc`."""

import json
import shlex
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pipelines.plan import make_plan
from pipelines.problems import BadInput, Problem
from pipelines.recipe import load_recipe
from pipelines.terminal import Terminal
from pipelines.workdir.lock import locked
from pipelines.workdir.opening import resolve_workdir
from pipelines.workdir.store import MANIFEST_FILE, Store


@dataclass(frozen=True)
class Removable:
    """A file or folder that can go. `why`: leftover, finished, unused."""

    path: Path
    why: str

    @property
    def size(self) -> int:
        """Bytes."""
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(file.lstat().st_size for file in files if file.is_file())


def leftovers(store: Store) -> Iterator[Removable]:
    """What killed runs left behind, and the notes of failures that have been mended since."""
    patterns = ("artifacts/*/.*", "checkpoints/*/*/.*", "checkpoints/*/*/*/.*")
    for pattern in patterns:
        yield from (Removable(path, "leftover") for path in store.workdir.glob(pattern))
    for note in store.workdir.glob("artifacts/*/*.failed.json"):
        if store.manifest(note.parent.name, note.name.removesuffix(".failed.json")):
            yield Removable(note, "leftover")


def finished(store: Store) -> Iterator[Removable]:
    """Checkpoints and parts of what has become an artifact."""
    for folder in store.workdir.glob("checkpoints/*/[!.]*"):
        if store.manifest(folder.parent.name, folder.name):
            yield Removable(folder, "finished")


def unused(store: Store, kept: Iterable[tuple[str, str, str]]) -> Iterator[Removable]:
    """Artifacts, checkpoints and locks of other nodes than the kept: (stage, fingerprint, key)."""
    kept = list(kept)
    artifacts = {(stage, fingerprint) for stage, fingerprint, _ in kept}
    for folder in store.workdir.glob("artifacts/*/[!.]*"):
        if (folder.parent.name, folder.name.removesuffix(".failed.json")) not in artifacts:
            yield Removable(folder, "unused")
    for folder in store.workdir.glob("checkpoints/*/[!.]*"):
        if (folder.parent.name, folder.name) not in {(stage, key) for stage, _, key in kept}:
            yield Removable(folder, "unused")
    for lock in store.workdir.glob("locks/*"):
        if lock.name not in {f"{stage}-{key}" for stage, _, key in kept}:
            yield Removable(lock, "unused")


def removable(store: Store, keep: Iterable[str]) -> list[Removable]:
    """Everything that can go, each path once. keep: recipes whose artifacts stay, others' go; none: all stay.

    Raises BadInput.
    """
    found = [*leftovers(store), *finished(store)]
    if keep := list(keep):
        found += unused(store, [place for text in keep for place in _places(store, text)])
    by_path = {own.path: own for own in found}
    return [own for path, own in by_path.items() if not by_path.keys() & set(path.parents)]


def _places(store: Store, text: str) -> Iterator[tuple[str, str, str]]:
    """Where the nodes of a recipe lie. text: its name or file and any key.path=value after it."""
    try:
        name, *overrides = shlex.split(text) or [""]
    except ValueError as error:
        raise BadInput([Problem("--keep", repr(text), f"RECIPE [KEY=VALUE ...]: {error}")]) from error
    recipe, problems = load_recipe(name, overrides)
    if problems:
        raise BadInput(problems)
    for step in make_plan(recipe.settings, store).steps.values():
        if step.fingerprint is None or step.key is None:
            raise BadInput([Problem("--keep", text, f"cannot tell what {step.node.name} is: {step.reason}")])
        yield step.node.stage, step.fingerprint, step.key


def gc(
    workdir: Annotated[str, typer.Option(metavar="DIR", help="whose artifacts and checkpoints")] = "runs",
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'RECIPE [KEY=VALUE ...]'",
            help="remove also what this recipe does not use as it is now; may be repeated: all of them stay",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would go; remove nothing")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="end stdout with one JSON object")] = False,
) -> int:
    """Remove from a workdir what no run needs any more.

    Without --keep only what can never be missed: leftovers of killed runs, and the checkpoints of trainings
    that have ended (the models are in their artifacts). MLflow's runs and its copies of pictures stay.

    \b
    Examples:
      gc --dry-run                               what could go, and how much that is
      gc                                         remove it
      gc --keep digits --keep 'digits seed=1'    and every artifact that these two do not use
    """
    folder = resolve_workdir(workdir)
    if not any((folder / name).is_dir() for name in ("artifacts", "checkpoints")):
        raise BadInput(
            [Problem("--workdir", repr(workdir), "no workdir: it has no artifacts and no checkpoints")]
        )
    store, terminal = Store(folder), Terminal(to_stderr=as_json)
    with locked(folder, _refuse, lambda: False):
        found = removable(store, keep or ())
        sizes = {own.path: own.size for own in found}
        if not dry_run:
            for own in found:
                _remove(store, own.path)
    rows = [(_bytes(sizes[own.path]), own.why, str(own.path.relative_to(folder))) for own in found]
    if rows:
        terminal.rows(("size", "why", "what"), rows)
    total = sum(sizes.values())
    terminal.say(f"{_bytes(total)} {'would be' if dry_run else 'were'} freed in {folder}")
    if as_json:
        removed = [{"path": str(o.path), "why": o.why, "bytes": sizes[o.path]} for o in found]
        typer.echo(json.dumps({"dry_run": dry_run, "bytes": total, "removed": removed}))
    return 0


def _remove(store: Store, path: Path) -> None:
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    (path / MANIFEST_FILE).unlink(missing_ok=True)  # first: half an artifact is none
    shutil.rmtree(path, ignore_errors=True)


def _refuse(process: str) -> None:
    raise BadInput([Problem("--workdir", f"a run (process {process}) works in it", "wait for its end")])


def _bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
