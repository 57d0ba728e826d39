"""Training checkpoints: `step_<n>` folders that appear whole, with checksums, the last two kept."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from uuid import uuid4

from pipelines.files import file_digest, read_json, write_json

CHECKSUMS_FILE = "checksums.json"
_KEPT = 2


@contextmanager
def new_checkpoint(folder: Path, step: int) -> Iterator[Path]:
    """A folder to write a checkpoint into; it becomes `step_<n>` whole, with checksums, when the block ends.

    The last two checkpoints up to this one are kept, and any of a longer training of the same settings.
    `folder` is what `Store.checkpoints` names.
    """
    temporary = folder / f".step_{step}.{uuid4().hex[:8]}"
    temporary.mkdir(parents=True)
    try:
        yield temporary
        write_json(
            temporary / CHECKSUMS_FILE, {file.name: file_digest(file) for file in sorted(temporary.iterdir())}
        )
        _sync(temporary)
        final = folder / f"step_{step}"
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for _, old in checkpoint_steps(folder, step)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def checkpoint_steps(folder: Path, most: float = inf) -> list[tuple[int, Path]]:
    """(step, folder) of each checkpoint up to step `most`, oldest first."""
    found = [(path.name.removeprefix("step_"), path) for path in folder.glob("step_*")]
    return sorted((int(step), path) for step, path in found if step.isdigit() and int(step) <= most)


def finished_parts(folder: Path) -> str:
    """What a stage without steps had finished when it was cut short, in words; empty when nothing."""
    kinds = {
        "shards": "*/[!.]*.tar",
        "batches of attacks": "autoattack/[!.]*.safetensors",
        "parts": "*/[!.]*.safetensors",
    }
    for kind, pattern in kinds.items():
        if num := sum(1 for _ in folder.glob(pattern)):
            return f"{num} finished {kind}"
    return ""


def sound_checkpoint(folder: Path, most: float = inf) -> tuple[int, Path] | None:
    """The newest checkpoint up to step `most` whose files match their checksums, as damaged ones' do not."""
    for step, path in reversed(checkpoint_steps(folder, most)):
        checksums = read_json(path / CHECKSUMS_FILE) or {}
        if checksums and all(
            (path / name).is_file() and file_digest(path / name) == sha for name, sha in checksums.items()
        ):
            return step, path
    return None


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
