"""Samples in parts that are made by whichever process is free, and found again by a run that goes on."""

import platform
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from ray.util import ActorPool
from torch import Tensor

from atjem.energies import energy_from_logits
from atjem.fidelity import Features, extract
from data.decode import encode_png
from data.shards import SCHEMA, Encoded, read_parquet, to_table, write_shard
from data.views import to_image
from pipelines.context import Silent, StageContext
from pipelines.files import write_json
from pipelines.stages.inputs import as_float, load_network, pick_device, read_dataset
from pipelines.stages.reference import open_extractor
from pipelines.stages.sampler import Sampler, features_at
from pipelines.stages.tensors import is_readable, save_tensors

_PART_IMAGES = 500  # about, in a part: what a killed run loses at most
_WRITERS = 4  # encoding leaves Python's lock to others


@dataclass(frozen=True)
class Parts:
    """The parts of one purpose, 'selection' or 'final', each of whole batches: files in one folder.

    A part's safetensors file is written last, so it is there only when the part is finished.
    """

    folder: Path
    num: int
    batch_size: int
    have_shards: bool

    @property
    def batches_each(self) -> int:
        return max(1, _PART_IMAGES // self.batch_size)

    @property
    def images_each(self) -> int:
        return self.batches_each * self.batch_size

    def __len__(self) -> int:
        return -(-self.num // self.images_each)

    def clock(self, number: int) -> Path:
        """What no artifact may hold: the seconds that a part took, which differ each time."""
        return self.folder / f".{self.name(number)}.seconds.json"

    def batches(self, number: int) -> range:
        first = number * self.batches_each
        return range(first, min(first + self.batches_each, -(-self.num // self.batch_size)))

    def name(self, number: int) -> str:
        return f"samples-{number:05d}"

    def shard(self, number: int) -> Path:
        return self.folder / f"{self.name(number)}.tar"

    def tensors(self, number: int) -> Path:
        return self.folder / f"{self.name(number)}.safetensors"

    def rows(self, number: int) -> Path:
        return self.folder / f".{self.name(number)}.parquet"

    def read_rows(self, number: int) -> pa.Table:
        with self.rows(number).open("rb") as file:
            return read_parquet(file).cast(SCHEMA)

    @property
    def num_made(self) -> int:
        """Samples that are computed: the last batch is padded."""
        return -(-self.num // self.batch_size) * self.batch_size

    def missing(self) -> list[int]:
        return [number for number in range(len(self)) if not self._is_finished(number)]

    def _is_finished(self, number: int) -> bool:
        """Readable and of full length: a power cut may shorten any of its files."""
        if not is_readable(self.tensors(number)) or not self.have_shards:
            return is_readable(self.tensors(number))
        try:
            end = max(row["offset"] + row["size"] for row in self.read_rows(number).to_pylist())
            return self.shard(number).stat().st_size >= end
        except (OSError, ValueError, pa.ArrowException):
            return False


def parts_of(context: StageContext, purpose: str) -> Parts:
    settings = context.settings.sample
    is_final = purpose == "final"
    num = settings.num_samples if is_final else settings.num_selection
    return Parts(context.checkpoints / purpose, num, settings.batch_size, have_shards=is_final)


class PartMaker:
    """A model, its sampler and the extractor in one process."""

    def __init__(self, context: StageContext) -> None:
        context = context.here()
        self.context, self.device = context, pick_device()
        self.network = load_network(context.inputs["model"], self.device)
        self.sampler = Sampler(context, self.network, self.device)
        weights = context.settings.evaluate.inception_weights
        self.extractor = open_extractor(context.inputs["reference"], weights, self.device)
        self.classes = read_dataset(context.inputs["data"]).classes
        self.pool = ThreadPoolExecutor(_WRITERS)

    def selection(self, number: int) -> int:
        """Writes the features of a part's samples at every candidate step count. Returns its number."""
        parts = parts_of(self.context, "selection")
        found: dict[int, list[Tensor]] = {steps: [] for steps in self.sampler.candidates}
        for _, images in self._batches("selection", parts, number, self.sampler.candidates):
            for steps, pooled in features_at(self.extractor, images).items():
                found[steps].append(pooled.float())
        told = {str(steps): torch.cat(pooled) for steps, pooled in found.items()}
        save_tensors(told, parts.tensors(number))
        self._keep(parts.tensors(number))
        return number

    def final(self, number: int, steps: int) -> int:
        """Writes a part's samples as a shard while their features are taken. Returns its number."""
        parts = parts_of(self.context, "final")
        parts.folder.mkdir(parents=True, exist_ok=True)
        features, energies, clock = [], [], _Clock()
        near = parts.shard(number).with_name(f".{parts.name(number)}.tar.unfinished")

        def encoded() -> Iterator[Encoded]:
            start = number * parts.images_each
            for _, images in clock.timed(self._batches("final", parts, number, (steps,))):
                pngs = self.pool.map(encode_png, map(to_image, images[steps]))
                features.append(extract(self.extractor, [images[steps]]))
                energies.append(self._energy(images[steps]))
                for png in pngs:
                    yield self._encoded(start, png, images[steps])
                    start += 1

        with near.open("wb") as file:
            rows = list(write_shard(file, parts.shard(number).name, encoded()))
        pq.write_table(to_table(rows), parts.rows(number))
        near.replace(parts.shard(number))
        write_json(parts.clock(number), {"seconds": clock.seconds})
        save_tensors(
            {**Features.cat(features).tensors(), "energy": torch.cat(energies)}, parts.tensors(number)
        )
        self._keep(parts.shard(number), parts.rows(number), parts.clock(number), parts.tensors(number))
        return number

    def frames(self, num: int, steps: int) -> list[Tensor]:
        """The first samples after 0, 1, ... steps."""
        return list(self.sampler.trajectory(num, steps))

    def machine(self) -> str:
        """What a speed depends on."""
        gpu = torch.cuda.get_device_name() if self.device.type == "cuda" else ""
        return gpu or f"{torch.get_num_threads()} {platform.machine()} threads"

    def _keep(self, *files: Path) -> None:
        """A part that is told of is where other machines find it."""
        self.context.mirror.push(*files)
        self.context.mirror.wait()

    def _batches(self, purpose: str, parts: Parts, number: int, at: tuple[int, ...]) -> Iterator[Any]:
        return self.sampler.batches(purpose, parts.num, at, parts.batches(number))

    @torch.no_grad()
    def _energy(self, pixels: Tensor) -> Tensor:
        return energy_from_logits(self.network(as_float(pixels, self.device))).cpu()

    def _encoded(self, index: int, png: bytes, pixels: Tensor) -> Encoded:
        """Samples of the marginal energy have no label."""
        joint = self.context.settings.sample.mode == "joint"
        label = index % len(self.classes) if joint else -1
        return Encoded(
            key=f"samples-{index:08d}",
            payload=png,
            label=label,
            class_name=self.classes[label] if joint else "",
            split="samples",
            width=pixels.shape[3],
            height=pixels.shape[2],
            source="",
        )


class Makers:
    """One maker in this process, or one in each of several Ray workers: a free one takes the next part."""

    def __init__(self, context: StageContext) -> None:
        compute = context.settings.compute
        self.context, self.num = context, compute.num_workers
        self.here = PartMaker(context) if self.num == 1 else None
        if self.here is None:
            worker = ray.remote(PartMaker).options(
                num_cpus=compute.cpus_per_worker,
                num_gpus=compute.gpus_per_worker,
                max_restarts=compute.max_restarts,
                max_task_retries=compute.max_restarts,
            )
            quiet = replace(context, report=Silent())
            self.pool = ActorPool([worker.remote(quiet) for _ in range(self.num)])

    def make(self, purpose: str, *arguments: int) -> Parts:
        """Makes the parts that are missing; `arguments` go to the maker's method of that name."""
        parts = parts_of(self.context, purpose)
        missing = parts.missing()
        done = parts.num - sum(parts.images_each for _ in missing)
        for _ in self._each(purpose, [(number, *arguments) for number in missing]):
            done += parts.images_each
            self.context.report.progress(min(done, parts.num), parts.num, f"{purpose} samples")
        if self.here is None and missing:
            self.context.mirror.pull()  # what makers on other machines have made
        return parts

    def frames(self, num: int, steps: int) -> list[Tensor]:
        (frames,) = self._each("frames", [(num, steps)])
        return frames

    def machine(self) -> dict[str, Any]:
        """What a speed depends on, for its protocol."""
        (device,) = self._each("machine", [()])
        return {
            "machine.device": device,
            "machine.num_workers": self.num,
            "machine.batch_size": self.context.settings.sample.batch_size,
        }

    def _each(self, method: str, calls: Iterable[tuple[int, ...]]) -> Iterator[Any]:
        if self.here is not None:
            return (getattr(self.here, method)(*call) for call in calls)
        return self.pool.map_unordered(lambda maker, call: getattr(maker, method).remote(*call), list(calls))


class _Clock:
    """Seconds that pass while an iterator is asked for its next item."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, items: Iterator[Any]) -> Iterator[Any]:
        while True:
            started = perf_counter()
            item = next(items, None)
            self.seconds += perf_counter() - started
            if item is None:
                return
            yield item
