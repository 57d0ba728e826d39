"""A stage's work in independent parts: made by any process, kept as files, used again by later runs."""

import hashlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from atjem.models.precision import tf32_as_in
from pipelines.context import StageContext
from pipelines.files import read_json, write_json
from pipelines.stages.tensors import is_readable, save_tensors


@dataclass(frozen=True)
class Part:
    """The files of one part. `record`, written last, names the others and their sizes."""

    folder: Path
    number: int

    @property
    def tensors(self) -> Path:
        return self.beside(".safetensors")

    @property
    def record(self) -> Path:
        return self.beside(".json")

    def beside(self, suffix: str) -> Path:
        """Another file of this part."""
        return self.folder / f"{self.number:05d}{suffix}"

    def is_finished(self, made_with: str) -> bool:
        """Made with these arguments, readable and of full length: a power cut may shorten any file."""
        record = read_json(self.record) or {}
        if record.get("made_with") != made_with:
            return False
        whole = all(_size(self.folder / name) == size for name, size in record["sizes"].items())
        return whole and is_readable(self.tensors)

    def save(self, tensors: dict[str, Tensor], others: Sequence[Path], made_with: str) -> list[Path]:
        """Finishes the part; `others` are written already. Returns all its files."""
        save_tensors(tensors, self.tensors)
        files = [*others, self.tensors]
        sizes = {file.name: _size(file) for file in files}
        write_json(self.record, {"made_with": made_with, "sizes": sizes})
        return [*files, self.record]


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else -1


class Maker(Protocol):
    """Makes parts in one process; built once in each, with all that it needs on its device.

    A method for each kind of part takes a `Part` and the arguments that all parts of this kind share. It
    writes further files, if any, and returns the part's tensors and these files.
    """

    def __init__(self, context: StageContext) -> None: ...


Made = tuple[dict[str, Tensor], Sequence[Path]]


class Parts:
    """Makes a stage's parts: in this process, or with several workers in Ray tasks."""

    def __init__(self, context: StageContext, maker: type[Maker]) -> None:
        self.context, self.maker = context, maker
        self.local: Maker | None = None

    def make(self, kind: Callable[..., Made], num: int, unit: str, *arguments: Any) -> list[Part]:
        """All `num` parts of a kind, a method of the maker; finished ones stay. unit: for the progress."""
        make = _Make(
            self.maker, kind.__name__, arguments, hashlib.sha256(pickle.dumps(arguments)).hexdigest()
        )
        parts = [Part(self.context.checkpoints / kind.__name__, number) for number in range(num)]
        missing = [part.number for part in parts if not part.is_finished(make.digest)]
        if not missing:
            return parts
        done = num - len(missing)
        for _ in self._each(make, missing):
            done += 1
            self.context.report.progress(done, num, unit)
        return parts

    def _each(self, make: "_Make", missing: Sequence[int]) -> Iterator[int]:
        if self.context.settings.compute.num_workers > 1:
            yield from self.context.spread(self.context, make, missing)
            self.context.mirror.pull()  # what was made on other machines
        else:
            context = self.context.here()
            self.local = self.local or self.maker(context)
            yield from make.with_maker(self.local, context, missing)


@dataclass(frozen=True)
class _Make:
    """Makes some parts of one kind, in whichever process calls it; picklable.

    digest: of the arguments. Parts that were made with others, say for a device with other memory, do not
    count.
    """

    maker: type[Maker]
    kind: str
    arguments: tuple[Any, ...]
    digest: str

    def __call__(self, context: StageContext, numbers: Sequence[int]) -> Iterator[int]:
        return self.with_maker(self.maker(context), context, numbers)

    def with_maker(self, maker: Maker, context: StageContext, numbers: Sequence[int]) -> Iterator[int]:
        """A part that is told of is where other machines find it."""
        for number in numbers:
            part = Part(context.checkpoints / self.kind, number)
            if not part.is_finished(self.digest):
                part.folder.mkdir(parents=True, exist_ok=True)
                with tf32_as_in(context.settings.evaluate.precision):
                    tensors, others = getattr(maker, self.kind)(part, *self.arguments)
                context.mirror.push(*part.save(tensors, others, self.digest))
                context.mirror.wait()
            yield number
