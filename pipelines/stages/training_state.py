"""What an interruption must bring back of a training, written to disk while the next steps are trained."""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from errno import EIO, ENOSPC
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from atjem.checkpoint import write_model
from atjem.checkpoint_files import WEIGHTS_FILE
from atjem.health import Watchdog
from atjem.learner import Learner
from pipelines.workdir.checkpoints import BEST, new_checkpoint, sound_checkpoint

if TYPE_CHECKING:
    from pipelines.stages.selection import BestModel

TRAINER_FILE = "trainer.pt"
CURVE_FILE = "curve.json"
COURSE_FILE = "course.json"
BEST_FILE, BEST_STATE_FILE = "best.safetensors", "best.json"
Curve = list[dict[str, float]]
_FULL = 1 << 20  # bytes; what a disk has left on which nothing more goes
_MEAN_OF = 10  # points of the curve that a checkpoint's figures are the mean of


@dataclass
class Course:
    """How a training left the course that its settings describe.

    skipped: batches passed over; ended_at: the step that `stage2.patience` ended it at.
    """

    skipped: int = 0
    returns: list[dict[str, Any]] = field(default_factory=list)  # {from, to, why} steps
    ended_at: int | None = None


@dataclass
class TrainingState:
    """All of it: a training that goes on from here ends as one that was never cut off."""

    learner: Learner
    watchdog: Watchdog
    chooser: "BestModel | None" = None
    curve: Curve = field(default_factory=list)
    course: Course = field(default_factory=Course)

    def restore(self, path: Path, device: torch.device) -> None:
        """Takes everything from a checkpoint."""
        state = torch.load(path / TRAINER_FILE, map_location=device, weights_only=True)
        state["learner"]["ema"]["module"] = load_file(path / WEIGHTS_FILE)
        self.learner.load_state_dict(state["learner"])
        self.watchdog.load_state_dict(state["watchdog"])
        if self.chooser:
            self.chooser.restore(path)
        self.curve = json.loads((path / CURVE_FILE).read_text())
        self.course = Course(**json.loads((path / COURSE_FILE).read_text()))

    def snapshot(self) -> Callable[[Path], None]:
        """A copy of it all on the CPU, as a function that writes it into a folder."""
        state = _on_cpu({"learner": self.learner.state_dict(), "watchdog": self.watchdog.state_dict()})
        average, spec = state["learner"]["ema"].pop("module"), self.learner.model.spec
        curve, course = json.dumps(self.curve), json.dumps(asdict(self.course))
        save_best = self.chooser.snapshot() if self.chooser else None

        def write(path: Path) -> None:
            torch.save(state, path / TRAINER_FILE)
            write_model(average, spec, path)
            (path / CURVE_FILE).write_text(curve)
            (path / COURSE_FILE).write_text(course)
            if save_best:
                save_best(path)

        return write

    def figures(self) -> dict[str, float]:
        """What the best checkpoints are found by."""
        values = {name: [point[name] for point in self.curve if name in point][-_MEAN_OF:] for name in BEST}
        looked = "selection_frechet_distance"  # of many samples: the last one is the checkpoint's own
        return {name: own[-1] if name == looked else fmean(own) for name, own in values.items() if own}


class Saver:
    """Writes checkpoints in a thread, one at a time; the training waits only while its state is copied.

    `send` is given each that was written. `say` is told when one could not be written or sent: the one before
    it still counts, and training goes on.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], send: Callable[[Path], None]) -> None:
        self.folder, self.say, self.send = folder, say, send
        self._pool = ThreadPoolExecutor(1)
        self._writing: tuple[int, Future[None]] | None = None

    def save(self, step: int, state: TrainingState) -> None:
        self.wait()
        figures, calm = state.figures(), state.watchdog.calm
        self._writing = step, self._pool.submit(self._write, step, state.snapshot(), figures, calm)

    def wait(self) -> OSError | None:
        """Until the last one is written. Returns why it was not."""
        if self._writing is None:
            return None
        step, future = self._writing
        self._writing = None
        try:
            future.result()
        except OSError as error:
            found = sound_checkpoint(self.folder, step - 1)
            last = f"the last one is of step {found[0]}" if found else "there is none before it"
            self.say(f"the checkpoint of step {step} could not be written or sent ({error}): {last}")
            return error
        return None

    def close(self) -> None:
        """Raises OSError when the last checkpoint could not be written."""
        error = self.wait()
        self._pool.shutdown()
        if error is not None:
            raise error

    def _write(self, step: int, write: Callable[[Path], None], figures: dict[str, float], calm: bool) -> None:
        with new_checkpoint(self.folder, step, figures, calm=calm) as path:
            try:
                write(path)
            except (RuntimeError, SafetensorError) as error:  # said of writes that the system refused
                code = ENOSPC if shutil.disk_usage(path).free < _FULL else EIO
                raise OSError(code, os.strerror(code), str(path)) from error
        self.send(self.folder / f"step_{step}")


def _on_cpu(value: Any) -> Any:
    """A copy whose tensors later steps do not change."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: _on_cpu(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_cpu(inner) for inner in value)
    return value
