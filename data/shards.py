"""WebDataset shards with a Parquet manifest: deterministic names, order and bytes."""

import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import webdataset as wds

from data.folders import Folder, Place, as_folder
from data.parquet_guard import read_metadata, refuse_bomb

MANIFEST_FILE = "manifest.parquet"
DATASET_FILE = "dataset.json"
SCHEMA = pa.schema(
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
Row = dict[str, Any]


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
    `shards_at` is where shards lie that are used in place; empty: beside the manifest.
    """

    channels: int
    image_size: int
    classes: list[str]
    whole: bool = False
    stored_as: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    class_counts: dict[str, int] = field(default_factory=dict)
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)
    identical: list[dict[str, Any]] = field(default_factory=list)  # see `data.identical`
    num_identical: int = 0  # all groups; `identical` names the first
    made_from: dict[str, Any] = field(default_factory=dict)
    shards_at: str = ""
    sha256: str = ""

    @staticmethod
    def read(place: Place) -> "Dataset":
        """Raises ValueError where the file describes no shards."""
        folder = as_folder(place)
        try:
            dataset = Dataset(**json.loads(folder.read(DATASET_FILE)))
            if not all(isinstance(num, int) for num in dict(dataset.counts).values()):
                raise ValueError("counts are no numbers of images by split")
            if not (isinstance(dataset.classes, list) and all(isinstance(c, str) for c in dataset.classes)):
                raise ValueError("classes are no list of names")
            return dataset
        except FileNotFoundError:
            missing = f"{folder.shown} holds no finished shards; prepare some by data.prepare"
            raise FileNotFoundError(missing) from None
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{folder.shown}/{DATASET_FILE} describes no shards: {error}") from None

    def write(self, folder: Path) -> None:
        (folder / DATASET_FILE).write_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        return (json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n").encode()


def shards_of(place: Place, dataset: Dataset) -> Folder:
    """Where a dataset's shards lie."""
    return as_folder(dataset.shards_at or place)


def write_shard(file: BinaryIO, name: str, images: Iterable[Encoded]) -> Iterator[Row]:
    """Writes one tar and yields each image's row of the manifest; `name` is the shard's.

    The same images in the same order give the same bytes: the tar's times and owners are fixed. An image's
    members are its label (.cls) and then its bytes, so these begin three blocks behind its place.
    """
    with wds.TarWriter(file, mtime=0, user="", group="") as writer:
        for image in images:
            label = str(image.label).encode()
            writer.write({"__key__": image.key, image.suffix: image.payload, "cls": label})
            offset = writer.tarstream.offset - (stored_size(len(image.payload)) - 3 * tarfile.BLOCKSIZE)
            yield make_row(image, name, offset)


def stored_size(num_bytes: int) -> int:
    """Bytes that an image takes in a shard: two headers, a label and its own in whole blocks."""
    return (3 - (-num_bytes // tarfile.BLOCKSIZE)) * tarfile.BLOCKSIZE


def make_row(image: Encoded, shard: str, offset: int) -> Row:
    fields = {name: value for name, value in asdict(image).items() if name != "payload"}
    digest = hashlib.sha256(image.payload).hexdigest()
    return {**fields, "shard": shard, "offset": offset, "size": len(image.payload), "sha256": digest}


class ManifestDigest:
    """Of all that a manifest lists, `Dataset.sha256`: keys, labels, splits and contents in their order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, rows: pa.Table) -> None:
        for row in rows.select(["key", "label", "split", "sha256"]).to_pylist():
            self._digest.update(f"{row['key']}\0{row['label']}\0{row['split']}\0{row['sha256']}\n".encode())

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


class ManifestWriter:
    """The manifest, a shard's rows at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._writer = pq.ParquetWriter(file, SCHEMA, write_page_checksum=True)
        self._digest = ManifestDigest()

    def add(self, rows: pa.Table) -> None:
        self._digest.add(rows)
        self._writer.write_table(rows)

    def close(self) -> str:
        """Returns the digest."""
        self._writer.close()
        return self._digest.hexdigest()


def to_table(rows: Sequence[Row]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def read_manifest(place: Place, split: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """The manifest's rows, of one split or of all, in the order in which the shards hold them."""
    wanted = None if columns is None else [*dict.fromkeys([*columns, "split"])]
    with as_folder(place).open(MANIFEST_FILE) as file:
        table = read_parquet(file, wanted)
    if "shard" in table.column_names:
        for name in table["shard"].unique().to_pylist():
            if name is None or name.startswith("/") or ".." in name.split("/"):
                raise ValueError(f"{MANIFEST_FILE} names the shard {name!r}, which lies outside its folder")
    chosen = table if split is None else table.filter(pc.equal(table["split"], split))
    return chosen if columns is None else chosen.select(list(columns))


def sides(rows: pa.Table) -> set[int]:
    """All widths and heights of a manifest's rows."""
    return {size for name in ("width", "height") for size in rows[name].unique().to_pylist()}


def read_parquet(file: BinaryIO, columns: list[str] | None = None) -> pa.Table:
    """In this thread: `pyarrow.parquet.read_table` leaves threads that may abort a process at its end
    (github.com/apache/arrow, issue 45017).
    """
    metadata = read_metadata(file)
    for group in range(metadata.num_row_groups):
        refuse_bomb(file, metadata, group, columns or ())
    named = ["shard", "split", "class_name"]
    stored = pq.ParquetFile(file, metadata=metadata, read_dictionary=named, page_checksum_verification=True)
    return stored.read(columns=columns, use_threads=False)


def write_split(folder: Path, split: str, images: Iterable[Encoded], shard_images: int) -> list[Row]:
    """Writes `<split>-00000.tar`, ... of `shard_images` each into a local folder. Returns their rows."""
    rows: list[Row] = []
    remaining, number = iter(images), 0
    while group := list(islice(remaining, shard_images)):
        name, number = shard_name(split, number), number + 1
        with (folder / name).open("wb") as file:
            rows += write_shard(file, name, group)
    return rows


def write_manifest(folder: Path, rows: Sequence[Row]) -> str:
    """Writes the manifest of few rows. Returns the digest of all that it lists."""
    with (folder / MANIFEST_FILE).open("wb") as file:
        manifest = ManifestWriter(file)
        manifest.add(to_table(rows))
        return manifest.close()


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:05d}.tar"
