"""Files made to harm: none runs anything, leaves its folder, ends the process or takes its memory."""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.hostile import Answer, ask_each

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


def png(**options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", **options)
    return buffer.getvalue()


# Tars

GOOD = png()


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
LONG = b"L"  # GNU's long name
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
    files["a hard link out"] = FIRST + header("cat/2.png", kind=tarfile.LNKTYPE, linkname="../../x.png") + END
    files["a name for the terminal"] = pax(path="c\x1b]0;x\x07t/\u202e1.png") + member("x") + END
    paths = {name: folder / f"{number}.tar" for number, name in enumerate(files)}
    for name, content in files.items():
        paths[name].write_bytes(content)
    paths["ways out, packed"] = folder / "out.tar.gz"
    paths["ways out, packed"].write_bytes(gzip.compress(WAYS_OUT + END))
    return paths


# Bombs

ZEROS = bytes(1 << 24)


def write_bombs(folder: Path) -> dict[str, Path]:
    """Some hundred kilobytes each, of hundreds of megabytes unpacked."""
    with gzip.open(folder / "bomb.tar.gz", "wb") as file:
        for _ in range(20):
            file.write(ZEROS)
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/1.png", GOOD)
        archive.writestr("../../out.png", GOOD)
        with archive.open("cat/2.png", "w", force_zip64=True) as out:
            for _ in range(25):
                out.write(ZEROS)
    idx = folder / "idx"
    idx.mkdir()
    with gzip.open(idx / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(bytes((0, 0, 8, 3)) + struct.pack(">III", 10**6, 1000, 1000))
        for _ in range(50):
            file.write(ZEROS)
    (idx / "train-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1)) + struct.pack(">I", 1) + b"\0")
    return {
        "a packed tar": folder / "bomb.tar.gz",
        "a zip's member": folder / "bomb.zip",
        "packed idx": idx,
    }


# Tables

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def parquet(path: Path, image: pa.Array, label: list[object] | None = None, **options: object) -> Path:
    columns = {"image": image, "label": pa.array(label or [row % 2 for row in range(len(image))])}
    pq.write_table(pa.table(columns), path, **options)
    return path


def repeated(size: int, rows: int) -> pa.Array:
    """A binary value of zeros that is there once and stands in every row."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([bytes(size)]))


def large(size: int, rows: int) -> pa.Array:
    """As many values of zeros, which take no memory as long as nobody writes to them."""
    offsets = pa.py_buffer((np.arange(rows + 1) * size).astype(np.int32).tobytes())
    zeros = pa.py_buffer(np.zeros(size * rows, dtype=np.uint8))
    return pa.Array.from_buffers(pa.binary(), rows, [None, offsets, zeros])


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
    once = {"compression": "zstd", "store_schema": False, "dictionary_pagesize_limit": 1 << 30}
    four = pa.table({"image": [b"abc"] * 4, "label": [0, 1, 0, 1]})
    zeros = pa.table({"image": large(64 << 20, 4), "label": [0, 1, 0, 1]})
    labels = pa.DictionaryArray.from_arrays(pa.array([0] * 20, pa.int32()), pa.array(["x" * (8 << 20)]))
    few = pa.array([GOOD] * 20)
    pq.write_table(pa.table({"image": few, "label": labels}), folder / "label.parquet", **once)
    invalid = pa.array([b"\xff\xfe"] * 20).view(pa.string())
    pq.write_table(pa.table({"image": few, "label": invalid}), folder / "utf8.parquet")
    (folder / "paths").mkdir()
    parquet(folder / "paths" / "a.parquet", pa.array([{"bytes": None, "path": "a\0b"}] * 4, STRUCT))
    return {
        "rows without end": with_rows(folder / "rows.parquet", 10**12),
        "two million rows in a kilobyte": with_rows(folder / "many.parquet", 2 * 10**6),
        "one value in every row": parquet(folder / "once.parquet", repeated(48 << 20, 40), **once),
        "pages of zeros": parquet(
            folder / "zeros.parquet", large(64 << 20, 10), compression="zstd", use_dictionary=False
        ),
        "a nested schema": nested(folder / "nested.parquet", 50_000),
        "a pickled type": with_pickled_type(folder / "type.parquet"),
        "a long label": folder / "label.parquet",
        "labels that are no text": folder / "utf8.parquet",
        "a path that is none": folder / "paths",
        "an Arrow value far away": saved(folder / "far", four, far_away),
        "a packed Arrow stream": saved(folder / "packed", zeros, lambda raw: raw, compression="zstd"),
    }


# Descriptions


def write_shards(folder: Path, description: str | None = None, **files: bytes) -> Path:
    """A folder of one WebDataset tar."""
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    if description is not None:
        (folder / "dataset.json").write_text(description)
    return folder


def odd_folders(folder: Path) -> Path:
    """Class folders as a file system allows them."""
    for name in ("..a", "b\nc", "<b>d", "e\x1b[2J"):
        (folder / name).mkdir(parents=True)
        (folder / name / "1.png").write_bytes(GOOD)
    return folder


def write_descriptions(folder: Path) -> dict[str, Path]:
    deep = "[" * 100_000
    for name, text in (("deep", deep), ("deeper", f'{{"_data_files": {deep}{"]" * 100_000}}}')):
        (folder / name).mkdir()
        (folder / name / "state.json").write_text(text)
    numbered = {"1_png": GOOD, "1_cls": b"0", "2_png": GOOD, "2_cls": b"1"}
    of_numbers = '{"channels": 3, "image_size": 8, "classes": [1, {}]}'
    named = {"1_png": GOOD, "1_cls": b"a\x1b[2J\nb", "2_png": GOOD, "2_json": b'{"label": "\\ud800"}'}
    return {
        "a deep list": folder / "deep",
        "a deep value": folder / "deeper",
        "a deep label": write_shards(folder / "label", **{"1_png": GOOD, "1_json": deep.encode()}),
        "classes that are no names": write_shards(folder / "classes", of_numbers, **numbered),
        "a deep description": write_shards(folder / "description", deep, **numbered),
        "labels for the terminal": write_shards(folder / "terminal", **named),
        "folders for the terminal": odd_folders(folder / "odd"),
        "a label of megabytes": write_shards(folder / "long", **{"1_png": GOOD, "1_cls": b"x" * (1 << 20)}),
    }


# Collections known by name


def write_cifar(folder: Path) -> dict[str, Path]:
    """Pickles in the place of CIFAR's, unpacked and packed."""
    batches, archive = folder / "cifar-10-batches-py", folder / "cifar-10-python.tar.gz"
    batches.mkdir()
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch", "batches.meta"]
    for name in names:
        (batches / name).write_bytes(pickle.dumps(Evil()))
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(batches, batches.name)
        tar.add(batches / names[0], "../../out.png")
    return {"a pickled batch": batches, "an archive of pickled batches": archive}


def matlab(*elements: tuple[int, bytes]) -> bytes:
    """A file of version 5."""
    header = b"MATLAB 5.0".ljust(124) + b"\x00\x01IM"
    return header + b"".join(struct.pack("<II", kind, len(content)) + content for kind, content in elements)


def write_devkits(folder: Path) -> dict[str, Path]:
    """ImageNet's validation images with a devkit that is none."""
    structs = struct.pack("<II", 6, 8) + struct.pack("<II", 2, 0)  # of class 2, and nothing else
    metas = {
        "a devkit's bomb": matlab((15, zlib.compress(bytes(80 << 20), 9))),
        "a devkit of nothing": matlab((14, structs)),
        "a devkit without end": matlab((14, structs + struct.pack("<II", 5, 1 << 31))),
    }
    devkit = "ILSVRC2012_devkit_t12"
    folders = {}
    for name, meta in metas.items():
        folders[name] = folder / name.replace(" ", "-")
        (folders[name] / "train" / "n01").mkdir(parents=True)
        (folders[name] / "train" / "n01" / "1.png").write_bytes(GOOD)
        (folders[name] / "ILSVRC2012_img_val.tar").write_bytes(member("a_00000001.JPEG") + END)
        truth = member(f"{devkit}/data/ILSVRC2012_validation_ground_truth.txt", b"1\n")
        packed = gzip.compress(member(f"{devkit}/data/meta.mat", meta) + truth + END)
        (folders[name] / f"{devkit}.tar.gz").write_bytes(packed)
    return folders


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def sources(place: Path) -> dict[str, Answer]:
    """What is said of each collection; all of them by one process."""
    files: dict[str, Path] = {}
    os.environ["HOSTILE_MARK"] = str(place / "ran")
    for write in (write_tars, write_bombs, write_tables, write_descriptions, write_cifar, write_devkits):
        (folder := place / "inside" / write.__name__).mkdir(parents=True)
        files |= write(folder)
    before = set(place.rglob("*"))
    answers = ask_each(ASK_SOURCE, files)
    assert set(place.rglob("*")) == before  # nothing ran, nothing was unpacked beside the files
    return answers


IN = ["1 images: cat/1.png (cat)"]
REFUSED = {
    "a member of a terabyte": "unexpected end of data",
    "a name of a terabyte": "a header of 1,099,511,627,776 bytes",
    "a name of megabytes": "a header of 2,097,152 bytes",
    "records of a terabyte": "a header of 1,099,511,627,776 bytes",
    "a negative size": "members overlap",
    "names before names": "maximum recursion depth",
    "records before records": "maximum recursion depth",
    "a sparse member of a terabyte": "damaged or no tar archive",
    "a hard link out": "is a hard link",
    "a packed tar": "as a decompression bomb does",
    "packed idx": "as a decompression bomb does",
    "rows without end": "said to have 1,000,000,000,000 rows",
    "two million rows in a kilobyte": "said to have 2,000,000 rows",
    "a nested schema": "50000 levels deep",
    "a long label": "a name of 8,388,608 bytes",
    "labels that are no text": "Invalid UTF8",
    "a path that is none": "which is no file",
    "an Arrow value far away": "out of bounds",
    "a packed Arrow stream": "it is compressed",
    "a deep list": "is missing or damaged",
    "a deep value": "is missing or damaged",
    "a deep label": "the label of 1 cannot be read",
    "classes that are no names": "classes are no list of names",
    "a deep description": "describes no shards",
    "a pickled batch": "differs from https://www.cs.toronto.edu",
    "an archive of pickled batches": "differs from https://www.cs.toronto.edu",
    "a devkit's bomb": "unpacks to more than 67,108,864 bytes",
    "a devkit of nothing": "is damaged",
    "a devkit without end": "it ends within an element",
    "a label of megabytes": "a name of 1,048,576 bytes",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_words(sources, name):
    answer = sources[name]
    assert answer.said.startswith("SourceError: ")
    assert REFUSED[name] in answer.said
    assert answer.megabytes < MEGABYTES


READ = {
    "an old sparse member": "1 images: cat/1.png (cat)",
    "ways out": "2 images: abs/6.png (abs); cat/1.png (cat)",
    "ways out, packed": "2 images: abs/6.png (abs); cat/1.png (cat)",
    "a name for the terminal": "1 images: c\\x1b]0;x\\x07t/\\u202e1.png (c\\x1b]0;x\\x07t)",
    "folders for the terminal": "3 images: "
    + "; ".join(f"{name}/1.png ({name})" for name in ("<b>d", "b\\nc", "e\\x1b[2J")),
    "labels for the terminal": "2 images: 1 (a\\x1b[2J\\nb); 2 (\\ud800)",
    "a pickled type": "4 images: " + "; ".join(f"type.parquet/{row} ({row % 2})" for row in range(4)),
}


@pytest.mark.parametrize("name", READ)
def test_read_without_what_would_harm(sources, name):
    assert sources[name].said == READ[name]


UNDECODABLE = {
    "a zip's member": "cat/2.png undecodable: said to have 419,430,400 bytes",
    "one value in every row": "undecodable: image unpacks to 2,0",
    "pages of zeros": "undecodable: image unpacks to 671,0",
}


@pytest.mark.parametrize("name", UNDECODABLE)
def test_bombs_are_bad_images(sources, name):
    assert UNDECODABLE[name] in sources[name].said
    assert sources[name].megabytes < MEGABYTES


# Prepared shards


def write_prepared(folder: Path) -> dict[str, Path]:
    """Folders that say they were prepared, each with a manifest or a description that is none."""
    once = {"compression": "zstd", "store_schema": False, "dictionary_pagesize_limit": 1 << 30}
    sound = '{"channels": 3, "image_size": 8, "classes": ["a"], "counts": {"train": 1}}'
    folders = {
        name: folder / name.replace(" ", "-")
        for name in ("rows without end", "one value in every row", "a nested schema", "a deep description")
    }
    for place in folders.values():
        place.mkdir()
        (place / "dataset.json").write_text("[" * 100_000 if "deep" in place.name else sound)
    with_rows(folders["rows without end"] / "manifest.parquet", 10**12)
    nested(folders["a nested schema"] / "manifest.parquet", 50_000)
    table = pa.table({"key": repeated(48 << 20, 40), "split": ["train"] * 40})
    pq.write_table(table, folders["one value in every row"] / "manifest.parquet", **once)
    return folders


PREPARED = {
    "rows without end": "OSError: it is said to have 1,000,000,000,000 rows",
    "one value in every row": "OSError: key unpacks to 2,0",
    "a nested schema": "OSError: its schema is 50000 levels deep",
    "a deep description": "dataset.json describes no shards",
}


@pytest.fixture(scope="module")
def prepared(place: Path) -> dict[str, Answer]:
    (folder := place / "prepared").mkdir()
    return ask_each(ASK_PREPARED, write_prepared(folder))


@pytest.mark.parametrize("name", PREPARED)
def test_prepared_shards_from_elsewhere_are_checked_in_bounds(prepared, name):
    assert PREPARED[name] in prepared[name].said
    assert prepared[name].megabytes < MEGABYTES


# Images


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def raw_png(width: int, height: int, *before: bytes, after: bytes = b"", bits: int = 8) -> bytes:
    size = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(min(height, 8) * (3 * min(width, 8) + 1))))
    parts = (chunk(b"IHDR", size), *before, pixels, after, chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def patched_tiff(tag: int, *, count: int, value: int) -> bytes:
    """A small TIFF with one tag's count and value changed."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "TIFF")
    content = bytearray(buffer.getvalue())
    (start,) = struct.unpack_from("<I", content, 4)
    (num,) = struct.unpack_from("<H", content, start)
    for place in range(start + 2, start + 2 + 12 * num, 12):
        if struct.unpack_from("<H", content, place) == (tag,):
            struct.pack_into("<HHII", content, place, tag, 4, count, value)
    return bytes(content)


def webp(kind: bytes, content: bytes) -> bytes:
    body = b"WEBP" + kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif(screen: int, frame: int) -> bytes:
    size, place = struct.pack("<HH", screen, screen), struct.pack("<HHHH", 0, 0, frame, frame)
    return b"GIF89a" + size + b"\x80\0\0" + bytes(6) + b"," + place + b"\0\x02\x02\x44\x01\0;"


INFLATED = zlib.compress(bytes(64 << 20), 9)
BOMB = "decompression bomb"
IMAGES = {
    "a png of 100,000 pixels a side": (raw_png(100_000, 100_000), BOMB),
    "a gif of 65,535": (gif(65_535, 65_535), BOMB),
    "a frame larger than its gif": (gif(8, 65_535), BOMB),
    "a tiff of 100,000 lines": (patched_tiff(257, count=1, value=100_000_000), BOMB),
    "a webp of 16,383": (
        webp(b"VP8L", b"\x2f" + struct.pack("<I", 16_382 | 16_382 << 14) + bytes(100)),
        BOMB,
    ),
    "a ppm of 100,000": (b"P6 100000 100000 255\n", BOMB),
    "a bmp of 100,000": (
        b"BM"
        + struct.pack("<IHHI", 100, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 100_000, 100_000, 1, 24, 0, 0, 0, 0, 0, 0),
        BOMB,
    ),
    "a text that inflates": (raw_png(8, 8, chunk(b"zTXt", b"a\0\0" + INFLATED)), "MAX_TEXT_CHUNK"),
    "a text behind the pixels": (raw_png(8, 8, after=chunk(b"zTXt", b"a\0\0" + INFLATED)), "MAX_TEXT_CHUNK"),
    "a profile that inflates": (raw_png(8, 8, chunk(b"iCCP", b"a\0\0" + INFLATED)), "MAX_TEXT_CHUNK"),
    "many texts": (
        raw_png(8, 8, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes((1 << 20) - 1)))] * 80),
        "MAX_TEXT_MEMORY",
    ),
    "an eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "not an image"),
    "a psd": (b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(206), "not an image"),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """What is said of each image, where a Ghostscript would leave a mark."""
    folder = tmp_path_factory.mktemp("images")
    ghostscript, mark = folder / "gs", folder / "ran"
    ghostscript.write_text(f"#!/bin/sh\ntouch {mark}\n")
    ghostscript.chmod(0o755)
    files = {}
    for number, (name, (content, _)) in enumerate(IMAGES.items()):
        files[name] = folder / f"{number}.png"
        files[name].write_bytes(content)
    answers = ask_each(ASK_IMAGE, files, path=str(folder))
    assert not mark.exists()
    return answers


@pytest.mark.parametrize("name", IMAGES)
def test_hostile_image_is_undecodable(images, name):
    assert images[name].said.startswith("UndecodableError: ")
    assert IMAGES[name][1] in images[name].said
    assert images[name].megabytes < MEGABYTES
