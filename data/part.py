"""One shard, written by whichever process gets the task, and what the whole needs to know of it."""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data.damage import shard_damage
from data.decode import ENCODERS, UndecodableError, read_as_is, read_frame, read_square
from data.folders import PARTS, Folder, LocalFolder
from data.formats import open_image
from data.shards import SCHEMA, Encoded, Row, make_row, read_parquet, to_table, write_shard
from data.sources.base import Item
from data.sources.inplace import StoredImage

_META = b"part"
Histogram = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


@dataclass(frozen=True)
class Job:
    """How a source becomes shards. Fractions are of each class (or of all, without labels).

    short_side: None stores squares of `image_size`; a number stores whole frames, their short side resized to
    it when it is longer. max_images: of each split, as evenly over the classes as they allow; None takes all.
    shard_mb: the size that shards are to have, about, in millions of bytes.
    """

    channels: int
    image_size: int
    seed: int
    test_fraction: float
    max_bad_fraction: float
    split_names: tuple[str, str] = ("train", "test")
    short_side: int | None = None
    encoding: str = "png"
    max_images: int | None = None
    shard_mb: float = 100

    def essence(self) -> dict[str, Any]:
        """What the bytes depend on, as JSON gives it back."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
            if name != "max_bad_fraction"
        }

    def read(self, item: Item) -> Image.Image:
        """Raises UndecodableError."""
        if self.short_side is None:
            return read_square(item.open, channels=self.channels, image_size=self.image_size)
        return read_frame(item.open, channels=self.channels, short_side=self.short_side)


@dataclass
class Part:
    """A written shard. histogram: (C, 256) counts of pixel values over its images."""

    name: str
    split: str
    histogram: Histogram
    num_images: int = 0
    num_bytes: int = 0  # of the tar; 0 when none was written
    rejected: list[dict[str, str]] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps({**vars(self), "histogram": self.histogram.tolist()})

    @staticmethod
    def from_json(text: str | bytes) -> "Part":
        fields = json.loads(text)
        return Part(**{**fields, "histogram": np.array(fields["histogram"], dtype=np.int64)})


@dataclass(frozen=True)
class ShardTask:
    """Items to write as one shard; `first` is the place of the first one in its split, for their keys."""

    name: str
    split: str
    first: int
    items: tuple[Item, ...]
    labels: Mapping[str, int]
    job: Job
    out: Folder

    def make(self) -> Part:
        """Writes the shard and then its part, unless they are there already."""
        part = read_part(self.out, self.name)
        if part is not None and self._is_there(part):
            return part
        part = Part(self.name, self.split, np.zeros((self.job.channels, 256), dtype=np.int64))
        rows = self._write(part)
        part.num_images = len(rows)
        table = to_table(rows).replace_schema_metadata({_META: part.to_json()})
        with self.out.new_file(_part_file(self.name)) as file:
            pq.write_table(table, file, write_page_checksum=True)
        return part

    def _is_there(self, part: Part) -> bool:
        """Whether a finished shard is still as it was written: on a local disk its bytes are read again."""
        if (self.out.size(self.name) or 0) != part.num_bytes:
            return False
        if not part.num_bytes or not isinstance(self.out, LocalFolder):
            return True
        try:
            rows = read_part_rows(self.out, self.name).to_pylist()
        except (pa.ArrowException, OSError, ValueError):
            return False
        return not shard_damage(self.out, rows, own=True)

    def _write(self, part: Part) -> list[Row]:
        if all(isinstance(item.open, StoredImage) for item in self.items):
            return [make_row(image, at.shard, at.offset) for image, at in self._stored(part)]
        with self.out.new_file(self.name) as file:
            rows = list(write_shard(file, self.name, self._encoded(part)))
            part.num_bytes = file.tell()
        if not rows:
            self.out.remove(self.name)
            part.num_bytes = 0
        return rows

    def _encoded(self, part: Part) -> Iterator[Encoded]:
        """Resized and encoded images; those that cannot be decoded are noted in `part.rejected`."""
        for number, item in enumerate(self.items, start=self.first):
            try:
                image = self.job.read(item)
                payload = ENCODERS[self.job.encoding](image)
            except UndecodableError as error:
                part.rejected.append({"source": item.name, "reason": str(error)})
                continue
            yield self._entry(part, item, f"{self.split}-{number:08d}", payload, image, self.job.encoding)

    def _stored(self, part: Part) -> Iterator[tuple[Encoded, StoredImage]]:
        """Images as they lie in their own shards, decoded only to see that they can be."""
        for item in self.items:
            assert isinstance(item.open, StoredImage)
            try:
                payload = item.open.read()
                image = read_as_is(partial(open_image, io.BytesIO(payload)), channels=self.job.channels)
            except (UndecodableError, OSError) as error:
                part.rejected.append({"source": item.name, "reason": str(error)})
                continue
            yield self._entry(part, item, item.name, payload, image, item.open.suffix), item.open

    def _entry(
        self, part: Part, item: Item, key: str, payload: bytes, image: Image.Image, suffix: str
    ) -> Encoded:
        part.histogram += np.array(image.histogram(), dtype=np.int64).reshape(part.histogram.shape)
        return Encoded(
            key=key,
            payload=payload,
            label=-1 if item.label is None else self.labels[item.label],
            class_name=item.label or "",
            split=self.split,
            width=image.width,
            height=image.height,
            source=item.name,
            suffix=suffix,
        )


def read_part(out: Folder, name: str) -> Part | None:
    """What is known of a shard that was finished before; None when it was not."""
    if out.size(_part_file(name)) is None:
        return None
    try:
        metadata = pq.read_schema(io.BytesIO(out.read(_part_file(name)))).metadata
        return Part.from_json(metadata[_META])
    except (pa.ArrowException, KeyError, TypeError, ValueError):  # cut short on a disk that gave out
        return None


def read_part_rows(out: Folder, name: str) -> pa.Table:
    table = read_parquet(io.BytesIO(out.read(_part_file(name))))
    return table.cast(SCHEMA).replace_schema_metadata(None)


def _part_file(name: str) -> str:
    return f"{PARTS}/{name}.parquet"
