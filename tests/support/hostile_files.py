"""Hostile files, and a process that opens them and reports the result."""

import gzip
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.data_files import picture, write_files, write_tar
from tests.support.hostile import Answer, ask_each
from tests.support.tables import STRUCT

ASK_SOURCE = """
from data.decode import UndecodableError, read_square
from data.sources.named import open_source

def ask(path):
    source, said = open_source(path, "."), []
    for item in list(source.items)[:4]:
        try:
            read_square(item.open, channels=3, image_size=8)
            said.append(f"{item.name} ({item.label})")
        except UndecodableError as error:
            said.append(f"{item.name} undecodable: {error}")
    return f"{len(source.items)} images: " + "; ".join(said)
"""
ASK_IMAGE = """
from functools import partial
from pathlib import Path
from data.decode import read_frame, read_square
from data.sources.base import _open_file

def ask(path):
    read_frame(partial(_open_file, Path(path)), channels=3, short_side=8)
    return read_square(partial(_open_file, Path(path)), channels=3, image_size=8).size
"""
ASK_PREPARED = """
from data.check import find_damage
from data.export import _first_damage

def ask(path):
    assert _first_damage(path, "train", lambda done, num: None) is None
    return "; ".join(find_damage(path))
"""


MEGABYTES = 700  # that a file of at most some hundred kilobytes may take


def assert_refused(answer: Answer, part: str) -> None:
    assert answer.said.startswith("SourceError: ")
    assert part in answer.said
    assert answer.megabytes < MEGABYTES


def ask_sources(place: Path) -> dict[str, Answer]:
    """Writes all hostile collections below `place` and lets one process open them."""
    files: dict[str, Path] = {}
    os.environ["HOSTILE_MARK"] = str(place / "ran")
    for write in (write_tars, write_bombs, write_tables, write_descriptions, write_cifar):
        (folder := place / "inside" / write.__name__).mkdir(parents=True)
        files |= write(folder)
    before = set(place.rglob("*"))
    answers = ask_each(ASK_SOURCE, files)
    assert set(place.rglob("*")) == before  # nothing ran, nothing was unpacked beside the files
    return answers


GOOD = picture(size=(8, 8))


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **facts: object) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    for fact, value in facts.items():
        setattr(member, fact, value)
    return member.tobuf(tarfile.GNU_FORMAT)


def whole(content: bytes) -> bytes:
    return content.ljust(-(-len(content) // 512) * 512, b"\0")


def member(name: str, content: bytes = GOOD, kind: bytes = tarfile.REGTYPE) -> bytes:
    return header(name, len(content), kind) + whole(content)


def pax(**records: object) -> bytes:
    """A header of extended records; names with dots written as __."""
    lines = b""
    for name, value in records.items():
        body = f" {name.replace('__', '.')}={value}\n".encode()
        size = next(n for n in range(len(body), len(body) + 9) if len(str(n)) + len(body) == n)
        lines += str(size).encode() + body
    return member("pax", lines, tarfile.XHDTYPE)


END, FIRST = bytes(1024), member("cat/1.png")
LONG = tarfile.GNUTYPE_LONGNAME
SPARSE = {"GNU__sparse__major": 1, "GNU__sparse__minor": 0, "GNU__sparse__name": "cat/2.png"}
TARS = {
    "a member of a terabyte": FIRST + header("cat/2.png", 1 << 40),
    "a name of a terabyte": header("././@LongLink", 1 << 40, LONG),
    "a name of megabytes": member("././@LongLink", b"a" * (2 << 20), LONG) + FIRST,
    "records of a terabyte": header("pax", 1 << 40, tarfile.XHDTYPE),
    "a negative size": FIRST + header("cat/2.png", -512) + FIRST,
    "names before names": member("././@LongLink", b"abc\0", LONG) * 5000 + FIRST,
    "records before records": pax(a="b") * 5000 + FIRST,
    "a sparse member of a terabyte": FIRST
    + pax(**SPARSE, GNU__sparse__realsize=1 << 40)
    + member("cat/2.png", b"999999999999\n0\n1\n"),
    "an old sparse member": FIRST
    + pax(GNU__sparse__map="0,1099511627776", GNU__sparse__size=1 << 40, GNU__sparse__name="cat/2.png")
    + member("cat/2.png", bytes(512)),
}
WAYS_OUT = (
    FIRST
    + header("cat/2.png", kind=tarfile.SYMTYPE, linkname="/etc/passwd")
    + header("cat/3.png", kind=tarfile.CHRTYPE, devmajor=1, devminor=5)
    + header("cat/4.png", kind=tarfile.BLKTYPE)
    + header("cat/5.png", kind=tarfile.FIFOTYPE)
    + member("../../out.png")
    + member("cat/../../out.png")
    + header("cat/note", kind=tarfile.LNKTYPE, linkname="../../../etc/passwd")
    + member("/abs/6.png")
)


def write_tars(folder: Path) -> dict[str, Path]:
    files = {name: content + END for name, content in TARS.items()}
    files["ways out"] = WAYS_OUT + END
    files["ways out, packed"] = gzip.compress(WAYS_OUT + END)
    files["a hard link out"] = FIRST + header("cat/2.png", kind=tarfile.LNKTYPE, linkname="../../x.png") + END
    files["a name for the terminal"] = pax(path="c\x1b]0;x\x07t/\u202e1.png") + member("x") + END
    names = {name: f"{n}.tar{'.gz' * ('packed' in name)}" for n, name in enumerate(files)}
    write_files(folder, {names[name]: content for name, content in files.items()})
    return {name: folder / file for name, file in names.items()}


ZEROS = bytes(1 << 24)


def write_bombs(folder: Path) -> dict[str, Path]:
    """Some hundred kilobytes each, of hundreds of megabytes unpacked."""
    packed = gzip.compress(ZEROS) * 17  # gzip's members follow one another
    (folder / "bomb.tar.gz").write_bytes(packed)
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("cat/1.png", GOOD)
        archive.writestr("../../out.png", GOOD)
        with archive.open("cat/2.png", "w", force_zip64=True) as out:
            for _ in range(25):
                out.write(ZEROS)
    idx = folder / "idx"
    shape = bytes((0, 0, 8, 3)) + struct.pack(">III", 10**6, 1000, 1000)
    images = gzip.compress(shape) + packed
    labels = bytes((0, 0, 8, 1)) + struct.pack(">I", 1) + b"\0"
    write_files(idx, {"train-images-idx3-ubyte.gz": images, "train-labels-idx1-ubyte": labels})
    return {"a packed tar": folder / "bomb.tar.gz", "a zip's member": folder / "bomb.zip", "packed idx": idx}


ONCE = {"compression": "zstd", "store_schema": False, "dictionary_pagesize_limit": 1 << 30}


def parquet(path: Path, image: pa.Array | pa.ChunkedArray, label: object = None, **options: object) -> Path:
    labels = [row % 2 for row in range(len(image))] if label is None else label
    pq.write_table(pa.table({"image": image, "label": labels}), path, **options)
    return path


def repeated(size: int, rows: int) -> pa.Array:
    """A binary value of zeros that is there once and stands in every row."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([bytes(size)]))


def large(size: int, rows: int) -> pa.ChunkedArray:
    """Repeats one value of zeros without copying it in memory."""
    return pa.chunked_array([pa.array([bytes(size)])] * rows)


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def with_rows(path: Path, claimed: int) -> Path:
    """A table of 10 rows whose footer says `claimed` wherever it said 10."""
    raw = parquet(path, pa.array([{"bytes": GOOD, "path": None}] * 10, STRUCT)).read_bytes()
    (size,) = struct.unpack("<I", raw[-8:-4])
    footer = raw[-8 - size : -8].replace(b"\x16\x14", b"\x16" + varint(2 * claimed))  # 0x16: a 64-bit field
    path.write_bytes(raw[: -8 - size] + footer + struct.pack("<I", len(footer)) + b"PAR1")
    return path


def nested(path: Path, depth: int) -> Path:
    """A schema of groups within groups, as a Thrift list of structs: repetition, name, number of children."""
    group = b"\x35\x02" + b"\x18\x01g" + b"\x15\x02" + b"\x00"
    leaf = b"\x15\x0c" + b"\x25\x02" + b"\x18\x01x" + b"\x00"
    schema = group * depth + leaf
    footer = b"\x15\x02" + b"\x19\xfc" + varint(depth + 1) + schema + b"\x16\x00" + b"\x19\x0c" + b"\x00"
    path.write_bytes(b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1")
    return path


class Evil:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return os.mkdir, (os.environ["HOSTILE_MARK"],)


def with_pickled_type(path: Path) -> Path:
    """As pyarrow before 14.0.1 wrote extension types, and unpickled them when it read a table."""
    metadata = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(Evil()),
    }
    field = pa.field("label", pa.int64(), metadata=metadata)
    image = pa.array([GOOD] * 4)
    table = pa.table([image, pa.array([0, 1, 0, 1])], schema=pa.schema([("image", pa.binary()), field]))
    pq.write_table(table, path)
    return path


def saved(folder: Path, table: pa.Table, spoil: Callable[[bytes], bytes], **options: object) -> Path:
    """As datasets' save_to_disk has it."""
    folder.mkdir()
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    (folder / "data.arrow").write_bytes(spoil(out.getvalue().to_pybytes()))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    return folder


def far_away(raw: bytes) -> bytes:
    """The second of four values of three bytes begins a gigabyte behind the file."""
    return raw.replace(struct.pack("<5i", 0, 3, 6, 9, 12), struct.pack("<5i", 0, 2**30, 2**30 + 10, 9, 12))


def write_tables(folder: Path) -> dict[str, Path]:
    plain = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
    four = pa.table({"image": [b"abc"] * 4, "label": [0, 1, 0, 1]})
    zeros = pa.table({"image": large(64 << 20, 4), "label": [0, 1, 0, 1]})
    labels = pa.DictionaryArray.from_arrays(pa.array([0] * 20, pa.int32()), pa.array(["x" * (1 << 20)]))
    few, invalid = pa.array([GOOD] * 20), pa.array([b"\xff\xfe"] * 20).view(pa.string())
    (folder / "paths").mkdir()
    parquet(folder / "paths" / "a.parquet", pa.array([{"bytes": None, "path": "a\0b"}] * 4, STRUCT))
    return {
        "rows without end": with_rows(folder / "rows.parquet", 10**12),
        "two million rows in a kilobyte": with_rows(folder / "many.parquet", 2 * 10**6),
        "one value in every row": parquet(folder / "once.parquet", repeated(16 << 20, 36), **ONCE),
        "pages of zeros": parquet(folder / "zeros.parquet", large(64 << 20, 9), **plain),
        "a nested schema": nested(folder / "nested.parquet", 50_000),
        "a pickled type": with_pickled_type(folder / "type.parquet"),
        "a long label": parquet(folder / "label.parquet", few, labels, **ONCE),
        "labels that are no text": parquet(folder / "utf8.parquet", few, invalid),
        "a path that is none": folder / "paths",
        "an Arrow value far away": saved(folder / "far", four, far_away),
        "a packed Arrow stream": saved(folder / "packed", zeros, lambda raw: raw, compression="zstd"),
    }


def shards(folder: Path, description: str | None = None, **members: bytes) -> Path:
    """A folder of one WebDataset tar."""
    write_tar(folder / "a.tar", {name.replace("_", "."): content for name, content in members.items()})
    if description is not None:
        (folder / "dataset.json").write_text(description)
    return folder


def write_descriptions(folder: Path) -> dict[str, Path]:
    deep = "[" * 100_000
    deeper = f'{{"_data_files": {deep}{"]" * 100_000}}}'
    write_files(folder, {"deep/state.json": deep.encode(), "deeper/state.json": deeper.encode()})
    odd = [f"{name}/1.png" for name in ("..a", "b\nc", "<b>d", "e\x1b[2J")]  # a file system allows them
    numbered = {"1_png": GOOD, "1_cls": b"0", "2_png": GOOD, "2_cls": b"1"}
    of_numbers = '{"channels": 3, "image_size": 8, "classes": [1, {}]}'
    named = {"1_png": GOOD, "1_cls": b"a\x1b[2J\nb", "2_png": GOOD, "2_json": b'{"label": "\\ud800"}'}
    return {
        "a deep list": folder / "deep",
        "a deep value": folder / "deeper",
        "a deep label": shards(folder / "label", **{"1_png": GOOD, "1_json": deep.encode()}),
        "classes that are no names": shards(folder / "classes", of_numbers, **numbered),
        "a deep description": shards(folder / "description", deep, **numbered),
        "labels for the terminal": shards(folder / "terminal", **named),
        "folders for the terminal": write_files(folder / "odd", dict.fromkeys(odd, GOOD)),
        "a label of megabytes": shards(folder / "long", **{"1_png": GOOD, "1_cls": b"x" * (1 << 20)}),
    }


def write_cifar(folder: Path) -> dict[str, Path]:
    """Pickles in the place of CIFAR's, unpacked and packed."""
    batches, archive = folder / "cifar-10-batches-py", folder / "cifar-10-python.tar.gz"
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch", "batches.meta"]
    write_files(batches, dict.fromkeys(names, pickle.dumps(Evil())))
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(batches, batches.name)
        tar.add(batches / names[0], "../../out.png")
    return {"a pickled batch": batches, "an archive of pickled batches": archive}


def write_prepared(folder: Path) -> dict[str, Path]:
    """Folders that say they were prepared, each with a manifest or a description that is none."""
    sound = b'{"channels": 3, "image_size": 8, "classes": ["a"], "counts": {"train": 1}}'
    names = ("rows without end", "one value in every row", "a nested schema", "a deep description")
    folders = {name: folder / name for name in names}
    for name, place in folders.items():
        write_files(place, {"dataset.json": b"[" * 100_000 if "deep" in name else sound})
    with_rows(folders["rows without end"] / "manifest.parquet", 10**12)
    nested(folders["a nested schema"] / "manifest.parquet", 50_000)
    table = pa.table({"key": repeated(16 << 20, 36), "split": ["train"] * 36})
    pq.write_table(table, folders["one value in every row"] / "manifest.parquet", **ONCE)
    return folders
