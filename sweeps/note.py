"""What a sweep is, as its folder remembers it: whoever goes on with it need not say it again."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Literal
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError

from data.redact import redact
from pipelines.files import read_json, write_json, write_text
from pipelines.problems import BadInput, Problem
from pipelines.settings import Positive
from pipelines.workdir.store import Store
from sweeps.space import read_text

NOTE_FILE, SPACE_FILE, RECIPE_FILE = "sweep.json", "space.yaml", "recipe.yaml"
_TEXTS = {"space": SPACE_FILE, "recipe": RECIPE_FILE}


@dataclass(frozen=True)
class Note:
    """`space` and `recipe` are texts, as they were when the sweep began: all its trials are made of them."""

    pipeline: str
    recipe: str
    space: str
    objectives: tuple[str, ...]  # none: the recipe's default ones
    overrides: tuple[str, ...]
    smoke: bool
    sampler: Literal["tpe", "nsga2", "grid"]
    trials: Positive
    seeds: Positive
    storage: str = ""  # of the study, without secrets; empty: SQLite in the folder
    fingerprint: str = ""  # of the recipe's own run: settings, images, code, library versions
    identity: str = ""  # tells it from other sweeps of its name

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        entries = asdict(self)
        for name, file in _TEXTS.items():
            write_text(folder / file, entries.pop(name))
        write_json(folder / NOTE_FILE, entries | {"storage": redact(self.storage)})


def new_identity() -> str:
    return uuid4().hex


def sweep_folder(store: Store, name: str) -> Path:
    return store.workdir / "sweeps" / name


def read_note(store: Store, name: str) -> Note:
    """Of the sweep of this name. Raises BadInput when there is none, or when it is damaged."""
    folder = sweep_folder(store, name)
    if Path(name).name != name or not (folder / NOTE_FILE).is_file():
        known = sorted(path.parent.name for path in folder.parent.glob(f"*/{NOTE_FILE}"))
        allowed = f"use one of {', '.join(known)}" if known else f"there is no sweep in {store.workdir}"
        raise BadInput([Problem("--resume", repr(name), allowed)])
    texts = {entry: read_text(folder / file, "--resume") for entry, file in _TEXTS.items()}
    try:
        return TypeAdapter(Note).validate_python({**(read_json(folder / NOTE_FILE) or {}), **texts})
    except ValidationError as error:
        entries = ", ".join(str(detail["loc"][0]) for detail in error.errors())
        problem = Problem(str(folder / NOTE_FILE), f"damaged: {entries}", "start a new sweep")
        raise BadInput([problem]) from error


def names(store: Store, recipe: str) -> Iterator[str]:
    """digits-1, digits-2, ...: those that are free in the workdir."""
    stem = re.sub(r"[^\w.-]+", "-", recipe)
    return (name for name in (f"{stem}-{n}" for n in count(1)) if not sweep_folder(store, name).exists())
