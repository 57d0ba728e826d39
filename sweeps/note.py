"""What a sweep is, as its folder remembers it: whoever goes on with it need not say it again."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipelines.files import read_json, write_json
from pipelines.problems import BadInput, Problem
from pipelines.store import Store
from sweeps.space import read_space

NOTE_FILE, SPACE_FILE = "sweep.json", "space.yaml"


@dataclass(frozen=True)
class Note:
    pipeline: str
    space: str  # its text
    objectives: tuple[str, ...]  # none: the recipe's default ones
    overrides: tuple[str, ...]
    smoke: bool
    sampler: str
    trials: int
    seeds: int
    fingerprint: str = ""  # of the recipe's own run: settings, images, code, library versions

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SPACE_FILE).write_text(self.space, encoding="utf-8")
        write_json(folder / NOTE_FILE, {key: value for key, value in asdict(self).items() if key != "space"})


def sweep_folder(store: Store, name: str) -> Path:
    return store.workdir / "sweeps" / name


def read_note(store: Store, name: str) -> Note:
    """Of the sweep of this name. Raises BadInput when there is none."""
    folder = sweep_folder(store, name)
    noted = read_json(folder / NOTE_FILE) if Path(name).name == name else None
    if noted is None:
        known = sorted(path.parent.name for path in folder.parent.glob(f"*/{NOTE_FILE}"))
        allowed = f"use one of {', '.join(known)}" if known else f"there is no sweep in {store.workdir}"
        raise BadInput([Problem("--resume", repr(name), allowed)])
    try:
        return TypeAdapter(Note).validate_python({**noted, "space": read_space(folder / SPACE_FILE)})
    except ValidationError as error:
        given = f"{error.error_count()} of its entries are damaged"
        raise BadInput([Problem(str(folder / NOTE_FILE), given, "start a new sweep")]) from error


def new_name(store: Store, recipe: str) -> str:
    """digits-1, digits-2, ...: the first that is free."""
    stem, number = re.sub(r"[^\w.-]+", "-", recipe), 1
    while sweep_folder(store, f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"
