"""Samples, their features and their energies, in parts that any process can make."""

import platform
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from atjem.energies import energy_from_logits
from atjem.fidelity import Features, extract
from data.decode import encode_png
from data.shards import SCHEMA, Encoded, read_parquet, to_table, write_shard
from data.views import to_image
from pipelines.context import StageContext
from pipelines.files import write_json
from pipelines.stages.inputs import as_float, load_network, pick_device, read_dataset
from pipelines.stages.parts import Made, Part
from pipelines.stages.reference import open_extractor
from pipelines.stages.sampler import Sampler, features_at

_PART_IMAGES = 500  # about, in a part: what a killed run loses at most
_WRITERS = 4  # encoding leaves Python's lock to others
SHARD, ROWS, CLOCK = ".tar", ".parquet", ".seconds.json"  # seconds differ each time: no artifact holds them


@dataclass(frozen=True)
class Layout:
    """How `num` samples are divided into parts of whole batches."""

    num: int
    batch_size: int

    @property
    def batches_each(self) -> int:
        return max(1, _PART_IMAGES // self.batch_size)

    @property
    def images_each(self) -> int:
        return self.batches_each * self.batch_size

    @property
    def num_parts(self) -> int:
        return -(-self.num // self.images_each)

    @property
    def num_made(self) -> int:
        """Samples that are computed: the last batch is padded."""
        return -(-self.num // self.batch_size) * self.batch_size

    def batches(self, number: int) -> range:
        first = number * self.batches_each
        return range(first, min(first + self.batches_each, -(-self.num // self.batch_size)))


def shard_name(number: int) -> str:
    return f"samples-{number:05d}.tar"


def read_rows(part: Part) -> pa.Table:
    with part.beside(ROWS).open("rb") as file:
        return read_parquet(file).cast(SCHEMA)


class SampleMaker:
    """A model, its sampler and the extractor in one process (`pipelines.stages.parts.Maker`)."""

    def __init__(self, context: StageContext) -> None:
        self.context, self.device = context, pick_device()
        self.network = load_network(context.inputs["model"], self.device, context.settings.evaluate.precision)
        self.sampler = Sampler(context, self.network, self.device)
        weights = context.settings.evaluate.inception_weights
        self.extractor = open_extractor(context.inputs["reference"], weights, self.device)
        self.classes = read_dataset(context.inputs["data"]).classes
        self.pool = ThreadPoolExecutor(_WRITERS)

    def selection(self, part: Part, layout: Layout) -> Made:
        """Features of a part's samples at every candidate step count."""
        found: dict[int, list[Tensor]] = {steps: [] for steps in self.sampler.candidates}
        for _, images in self._batches("selection", layout, part.number, self.sampler.candidates):
            for steps, pooled in features_at(self.extractor, images).items():
                found[steps].append(pooled.float())
        return {str(steps): torch.cat(pooled) for steps, pooled in found.items()}, []

    def final(self, part: Part, layout: Layout, steps: int) -> Made:
        """Features and energies of a part's samples; a shard of them is written meanwhile."""
        features, energies, clock = [], [], _Clock()
        shard, rows, seconds = part.beside(SHARD), part.beside(ROWS), part.beside(CLOCK)

        def encoded() -> Iterator[Encoded]:
            start = part.number * layout.images_each
            for _, images in clock.timed(self._batches("final", layout, part.number, (steps,))):
                pngs = self.pool.map(encode_png, map(to_image, images[steps]))
                features.append(extract(self.extractor, [images[steps]]))
                energies.append(self._energy(images[steps]))
                for png in pngs:
                    yield self._encoded(start, png, images[steps])
                    start += 1

        with shard.open("wb") as file:
            pq.write_table(to_table(list(write_shard(file, shard_name(part.number), encoded()))), rows)
        write_json(seconds, {"seconds": clock.seconds, "device": self._machine()})
        return {**Features.cat(features).tensors(), "energy": torch.cat(energies)}, [shard, rows, seconds]

    def frames(self, part: Part, num: int, steps: int) -> Made:
        """The first samples after 0, 1, ... steps: (steps + 1, num, C, H, W) uint8."""
        del part
        return {"frames": torch.stack(list(self.sampler.trajectory(num, steps)))}, []

    def _machine(self) -> str:
        """What a speed depends on."""
        gpu = torch.cuda.get_device_name() if self.device.type == "cuda" else ""
        return gpu or f"{torch.get_num_threads()} {platform.machine()} threads"

    def _batches(self, purpose: str, layout: Layout, number: int, at: tuple[int, ...]) -> Iterator[Any]:
        return self.sampler.batches(purpose, layout.num, at, layout.batches(number))

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
