"""What a stage is given: its declared settings, its inputs' folders, a folder to write, a way to report."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from pipelines.settings import Settings


class Reporter(Protocol):
    """Where a stage tells how far it is. Cheap: it may be called at every step."""

    def progress(self, done: int, total: int, unit: str, **watched: float) -> None:
        """`done` of `total` units, and values worth showing beside the bar."""

    def points(self, points: Iterable[Mapping[str, float]]) -> None:
        """Points of the stage's curves: {'step': 10, 'loss': 1.2, ...}. A step may be reported twice."""

    def stopping(self) -> bool:
        """True once the user has asked for an end; a training stage then saves and returns."""


class Silent:
    """A reporter that says nothing: of a worker whose stage speaks for it."""

    def progress(self, done: int, total: int, unit: str, **watched: float) -> None: ...

    def points(self, points: Iterable[Mapping[str, float]]) -> None: ...

    def stopping(self) -> bool:
        return False


class Interrupted(Exception):
    """The stage ended early because it was asked to; its last checkpoint goes on from there."""


@dataclass(frozen=True)
class StageContext:
    """`inputs` maps each role in the node's `needs` to a finished artifact's folder.

    `sources` holds the identities of the image collections that the fingerprint was made with.
    """

    settings: "Settings"
    inputs: Mapping[str, Path]
    folder: Path
    checkpoints: Path
    report: Reporter
    sources: Mapping[str, str]


class View:
    """The settings that a node declares in the graph; any other name raises AttributeError."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"setting {name!r} is not among those the node reads (pipelines/graph.py)")


def select(settings: "Settings", paths: Iterable[str]) -> "Settings":
    """Only the named settings ('seed', 'stage1', 'data.in', ...), under their usual attribute names.

    What a stage cannot see cannot change its result, so fingerprints cannot miss a setting.
    """
    selected: dict[str, Any] = {}
    for path in paths:
        *sections, last = path.split(".")
        source: Any = settings
        target = selected
        for section in sections:
            source = getattr(source, section)
            target = target.setdefault(section, {})
        name = "in_" if last == "in" else last
        target[name] = getattr(source, name)
    return cast("Settings", _view(selected))


def _view(values: dict[str, Any]) -> View:
    return View({name: _view(v) if isinstance(v, dict) else v for name, v in values.items()})
