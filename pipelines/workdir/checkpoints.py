"""Training checkpoints: `step_<n>` folders that appear whole, with checksums; the best and last are kept."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import inf
from pathlib import Path, PurePosixPath
from uuid import uuid4

from pipelines.files import file_digest, read_json, sync_files, sync_folder, write_json

CHECKSUMS_FILE = "checksums.json"
NOTE_FILE = "note.json"
_NEWEST = 2  # kept whatever they hold

# Which checkpoints are the best ones, by figures in their notes.
BEST = {"adversarial_accuracy": max, "selection_frechet_distance": min}


@contextmanager
def new_checkpoint(
    folder: Path, step: int, figures: Mapping[str, float] | None = None, *, calm: bool = True
) -> Iterator[Path]:
    """A folder to write a checkpoint into; it becomes `step_<n>` whole, with checksums, when the block ends.

    figures: what the best are found by; calm: nothing points to trouble, a training may go back to it. Of the
    checkpoints up to this one those `worth_keeping` stay, and all of a longer training of the same settings.
    `folder` is what `Store.checkpoints` names.
    """
    temporary = folder / f".step_{step}.{uuid4().hex[:8]}"
    temporary.mkdir(parents=True)
    try:
        yield temporary
        write_json(temporary / NOTE_FILE, {"calm": calm, "figures": dict(figures or {})})
        digests = {file.name: file_digest(file) for file in sorted(temporary.iterdir())}
        write_json(temporary / CHECKSUMS_FILE, digests)
        sync_files(temporary)
        final = folder / f"step_{step}"
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync_folder(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    kept = worth_keeping(folder, step)
    for _, old in checkpoint_steps(folder, step):
        if old not in kept:
            shutil.rmtree(old, ignore_errors=True)


def worth_keeping(folder: Path, most: float = inf) -> set[Path]:
    """Of the checkpoints up to step `most`: the last two, the last calm one, the best by each of `BEST`."""
    found = [path for _, path in checkpoint_steps(folder, most)]
    notes = {path: read_json(path / NOTE_FILE) or {} for path in found}
    kept = set(found[-_NEWEST:])
    kept |= set([path for path in found if notes[path].get("calm")][-1:])
    for name, best in BEST.items():
        measured = {
            path: note["figures"][name] for path, note in notes.items() if name in note.get("figures", {})
        }
        if measured:
            kept.add(best(reversed(measured), key=measured.__getitem__))
    return kept


def checkpoint_steps(folder: Path, most: float = inf) -> list[tuple[int, Path]]:
    """(step, folder) of each checkpoint up to step `most`, oldest first."""
    found = [(path.name.removeprefix("step_"), path) for path in folder.glob("step_*")]
    return sorted((int(step), path) for step, path in found if step.isdigit() and int(step) <= most)


def finished_parts(names: Iterable[str]) -> str:
    """What a stage without steps had finished when it was cut short, in words; empty when nothing.

    names: of the files below its folder of unfinished work.
    """
    paths = [PurePosixPath(name) for name in names]
    for kind, pattern in (("parts", "*/[0-9][0-9][0-9][0-9][0-9].json"), ("shards", "*/[!.]*.tar")):
        if num := sum(path.match(pattern) for path in paths):
            return f"{num} finished {kind}"
    return ""


def sound_checkpoint(
    folder: Path, most: float = inf, *, calm: bool = False, on_damage: Callable[[str], None] | None = None
) -> tuple[int, Path] | None:
    """The newest checkpoint up to step `most` whose files match their checksums, as damaged ones' do not.

    calm: only of those that a training may go back to. on_damage: told of each that is passed over for it.
    """
    for step, path in reversed(checkpoint_steps(folder, most)):
        if calm and not (read_json(path / NOTE_FILE) or {}).get("calm"):
            continue
        if (wrong := damage(path)) is None:
            return step, path
        if on_damage:
            on_damage(f"checkpoint {path.name} is damaged ({wrong}), an earlier one is used")
    return None


def damage(checkpoint: Path) -> str | None:
    """Which file of a checkpoint is not what was written; None when all are."""
    checksums = read_json(checkpoint / CHECKSUMS_FILE)
    if not checksums:
        return f"no {CHECKSUMS_FILE}"
    for name, digest in checksums.items():
        file = checkpoint / name
        if not file.is_file():
            return f"no {name}"
        if file_digest(file) != digest:
            return f"{name} does not match its checksum"
    return None
