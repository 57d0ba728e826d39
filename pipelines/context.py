"""What a stage is given: its declared settings, its inputs' folders, a folder to write, a way to report."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from data.folders import Folder, LocalFolder

if TYPE_CHECKING:
    from pipelines.settings import Settings, Stage

Worker = Callable[[dict[str, Any]], None]
MakeParts = Callable[["StageContext", Sequence[int]], Iterator[int]]  # yields each number that is made


class Reporter(Protocol):
    """Where a stage tells how far it is. Cheap: it may be called at every step."""

    def progress(self, done: int, total: int, unit: str, **watched: float) -> None:
        """`done` of `total` units, and values worth showing beside the bar."""

    def points(self, points: Iterable[Mapping[str, float]]) -> None:
        """Points of the stage's curves: {'step': 10, 'loss': 1.2, ...}. A step may be reported twice."""

    def say(self, text: str) -> None:
        """One line for the user, at once."""

    def stopping(self, *, ask: bool = False) -> bool:
        """True once an end or a pause was asked for; a training stage then saves and returns.

        ask: wait for an answer; without it, the last one that came, at no cost.
        """

    def pause(self, *, on: bool) -> None:
        """Asks this stage alone for a pause, as for an end, or takes it back."""


class Silent:
    """A reporter that says nothing: of a worker whose stage speaks for it."""

    def progress(self, done: int, total: int, unit: str, **watched: float) -> None: ...

    def points(self, points: Iterable[Mapping[str, float]]) -> None: ...

    def say(self, text: str) -> None: ...

    def stopping(self, *, ask: bool = False) -> bool:
        return False

    def pause(self, *, on: bool) -> None: ...


class Mirror(Protocol):
    """Between a machine and a workdir that not all machines see as a folder: inputs and unfinished work.

    Paths are below `StageContext.checkpoints` of the context that `StageContext.here` gives.
    """

    def inputs(self, folders: Mapping[str, Path]) -> Mapping[str, Path]:
        """The inputs' folders on this machine, brought to it if need be."""

    def checkpoints(self, folder: Path) -> Path:
        """The folder of the node's unfinished work on this machine."""

    def pull(self) -> None:
        """Makes of that folder what all machines have sent."""

    def push(self, *paths: Path) -> None:
        """Sends finished files and folders, or that they are gone, in the background; waits for the last."""

    def wait(self) -> None:
        """Until all of it has arrived; raises what went wrong."""

    def shared(self, folder: Path) -> Folder:
        """A folder of that name that processes of all machines write into."""

    def collect(self, folder: Path) -> None:
        """Brings what they wrote there to `folder`."""

    def storage(self, folder: Path) -> tuple[str, Any]:
        """That folder for libraries that know pyarrow: a path and its file system (None: this machine's)."""


class Nearby:
    """Of a workdir that every machine sees: everything is in its place."""

    def inputs(self, folders: Mapping[str, Path]) -> Mapping[str, Path]:
        return folders

    def checkpoints(self, folder: Path) -> Path:
        return folder

    def pull(self) -> None: ...

    def push(self, *paths: Path) -> None: ...

    def wait(self) -> None: ...

    def shared(self, folder: Path) -> Folder:
        return LocalFolder(folder)

    def collect(self, folder: Path) -> None: ...

    def storage(self, folder: Path) -> tuple[str, Any]:
        return str(folder), None


class Interrupted(Exception):
    """The stage ended early because it was asked to; its last checkpoint goes on from there."""


@dataclass(frozen=True)
class StageContext:
    """`inputs` maps each role in the node's `needs` to a finished artifact's folder.

    `sources` holds the identities of the image collections that the fingerprint was made with. `run_workers`
    runs a function on every training worker, until the training has ended or stopped; `spread` makes parts in
    Ray tasks, and yields the numbers of those that are made. `trusted` is a file that may be unpickled,
    whatever code that runs. `checkpoints` is for unfinished work, which a killed stage goes on with; `mirror`
    keeps it where other machines find it. `memory`: bytes that an evaluation may take on its device.
    `least_workers`: the fewest that a training goes on with; `may_split`: with fewer than planned, its
    micro-batches may shrink.
    """

    settings: "Settings"
    inputs: Mapping[str, Path]
    folder: Path
    checkpoints: Path
    report: Reporter
    sources: Mapping[str, str]
    run_workers: "Callable[[Worker, StageContext, Stage], None]"
    spread: "Callable[[StageContext, MakeParts, Sequence[int]], Iterator[int]]"
    trusted: str = ""
    mirror: Mirror = field(default_factory=Nearby)
    memory: float = float("inf")
    least_workers: int = 1
    may_split: bool = False

    def here(self) -> "StageContext":
        """What a process on another machine works with: inputs are brought to it. `folder` stays behind."""
        inputs, checkpoints = self.mirror.inputs(self.inputs), self.mirror.checkpoints(self.checkpoints)
        return replace(self, inputs=inputs, checkpoints=checkpoints)


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
