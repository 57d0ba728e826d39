"""Calls of the tracker as lines of JSON, to be made when the store answers."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from data.redact import redact
from pipelines.trial import Trial

_FILE, _TRIAL = "$file", "$trial"  # keys of an object that stands for a path, or for a trial


@dataclass(frozen=True)
class Record:
    """`call`: a method of `Tracker`. `name`: of the run it opens, which has no id yet."""

    number: int  # in its outbox, from 0
    time: int  # milliseconds since 1970, when there was something to tell
    call: str
    args: list[Any]
    kwargs: dict[str, Any]
    name: str | None = None


def encode(value: Any, keep: Callable[[Path], str]) -> Any:
    """What JSON has for an argument. keep: a file's path in the workdir, where it stays.

    Raises TypeError for what a record cannot hold.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return redact(value)  # it may lie on the disk for long
    if isinstance(value, Path):
        return {_FILE: keep(value)}
    if isinstance(value, Trial):
        return {_TRIAL: asdict(value)}
    if isinstance(value, Real):
        return int(value) if isinstance(value, Integral) else float(value)
    if isinstance(value, Mapping):
        return {str(key): encode(own, keep) for key, own in value.items()}
    if isinstance(value, Iterable):
        return [encode(own, keep) for own in value]
    raise TypeError(f"a record cannot hold {type(value).__name__}")


def decode(value: Any, workdir: Path, real: Callable[[str], str]) -> Any:
    """An argument from its JSON. real: the store's id of a run for whatever name it was known by."""
    if isinstance(value, str):
        return real(value)
    if isinstance(value, list):
        return [decode(own, workdir, real) for own in value]
    if not isinstance(value, dict):
        return value
    if _FILE in value:
        return workdir / value[_FILE]
    if _TRIAL in value:
        return Trial(**decode(value[_TRIAL], workdir, real))
    return {key: decode(own, workdir, real) for key, own in value.items()}


def texts(value: Any) -> Iterator[str]:
    """Every text in the JSON of an argument: what may be a run's name."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for own in value if isinstance(value, list) else value.values():
            yield from texts(own)


def json_line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a file of JSON lines, up to one that was cut off or damaged; none without a file."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return
    for line in lines:
        try:
            value = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            return
        if not isinstance(value, dict):
            return
        yield value
