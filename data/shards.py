"""Images to WebDataset shards with a Parquet manifest: deterministic names, order and bytes."""

import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import webdataset as wds

MANIFEST_FILE = "manifest.parquet"
DATASET_FILE = "dataset.json"
_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.int64()),  # -1: no label
        ("class_name", pa.string()),
        ("split", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),  # of the image's bytes in the shard
        ("size", pa.int64()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("source", pa.string()),
        ("suffix", pa.string()),
    ]
)


@dataclass(frozen=True)
class Encoded:
    """One image as it goes into a shard."""

    key: str
    payload: bytes
    label: int
    class_name: str
    split: str
    width: int
    height: int
    source: str
    suffix: str = "png"


@dataclass
class Dataset:
    """What a folder of shards holds, as `dataset.json` beside the manifest.

    Images are squares of `image_size`, or whole frames (`whole`) that are cropped to it when they are read.
    """

    channels: int
    image_size: int
    classes: list[str]
    whole: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    class_counts: dict[str, int] = field(default_factory=dict)
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)
    sha256: str = ""

    @staticmethod
    def read(folder: Path) -> "Dataset":
        return Dataset(**json.loads((folder / DATASET_FILE).read_text(encoding="utf-8")))

    def write(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"
        (folder / DATASET_FILE).write_text(text, encoding="utf-8")


def write_split(
    folder: Path, split: str, images: Iterable[Encoded], shard_images: int
) -> list[dict[str, Any]]:
    """Writes `<split>-00000.tar`, ... of `shard_images` each. Returns the rows for the manifest.

    The same images in the same order give the same bytes: the tars' times and owners are fixed.
    """
    rows: list[dict[str, Any]] = []
    for number, group in enumerate(_groups(images, shard_images)):
        shard = f"{split}-{number:05d}.tar"
        with wds.TarWriter(str(folder / shard), mtime=0, user="", group="") as writer:
            for image in group:
                label = str(image.label).encode()
                writer.write({"__key__": image.key, image.suffix: image.payload, "cls": label})
        offsets = _offsets(folder / shard)
        rows += [_row(image, shard, offsets[f"{image.key}.{image.suffix}"]) for image in group]
    return rows


def write_manifest(folder: Path, rows: Sequence[dict[str, Any]]) -> str:
    """Writes the Parquet manifest. Returns the digest of all that it lists."""
    pq.write_table(pa.Table.from_pylist(list(rows), schema=_SCHEMA), folder / MANIFEST_FILE)
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row['key']}\0{row['label']}\0{row['split']}\0{row['sha256']}\n".encode())
    return digest.hexdigest()


def read_manifest(folder: Path, split: str | None = None) -> pa.Table:
    """The manifest's rows, of one split or of all, in the order in which the shards hold them."""
    table: pa.Table = pq.read_table(folder / MANIFEST_FILE)
    return table if split is None else table.filter(pa.compute.equal(table["split"], split))


def _groups(images: Iterable[Encoded], size: int) -> Iterator[list[Encoded]]:
    group: list[Encoded] = []
    for image in images:
        group.append(image)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _offsets(shard: Path) -> dict[str, int]:
    with tarfile.open(shard) as tar:
        return {member.name: member.offset_data for member in tar}


def _row(image: Encoded, shard: str, offset: int) -> dict[str, Any]:
    fields = {name: value for name, value in asdict(image).items() if name != "payload"}
    return {
        **fields,
        "shard": shard,
        "offset": offset,
        "size": len(image.payload),
        "sha256": hashlib.sha256(image.payload).hexdigest(),
    }
