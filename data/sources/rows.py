"""Rows of image tables: parquet files by row group, Arrow stream files mapped into memory."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from data.formats import open_image
from data.parquet_guard import read_metadata, refuse_bomb
from data.sources.arrow_guard import refuse_compressed
from data.sources.base import SourceError, listed, printable

_SHOWN = 200  # characters of a path
_CACHED_BYTES = 256 << 20  # of decoded row groups a process keeps, for rows come in shuffled order
_cached: dict[tuple[str, int, int, int, str], pa.ChunkedArray] = {}


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """What goes wrong inside becomes a SourceError that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(
            f"{file} is truncated, damaged or no such table ({reason}); get it again"
        ) from error


def read_schema(file: Path) -> pa.Schema:
    with reading(file):
        return _metadata(file).schema.to_arrow_schema() if _is_parquet(file) else _mapped(str(file)).schema


def group_sizes(file: Path) -> list[int]:
    """Rows of each row group; an Arrow file is one group."""
    with reading(file):
        if not _is_parquet(file):
            return [_mapped(str(file)).num_rows]
        metadata = _metadata(file)
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def _metadata(file: Path) -> pq.FileMetaData:
    with file.open("rb") as stream:
        return read_metadata(stream)


def read_column(file: Path, column: str) -> pa.ChunkedArray:
    """A whole column, for labels."""
    with reading(file):
        if not _is_parquet(file):
            return _mapped(str(file))[column]
        read = [_read_group(str(file), group, column) for group in range(_metadata(file).num_row_groups)]
        chunks = [chunk for group in read for chunk in group.chunks]
        return pa.chunked_array(chunks, read_schema(file).field(column).type)


def paths_without_bytes(file: Path, column: str) -> Iterator[str]:
    """The paths of images that a struct column holds as a path alone."""
    with reading(file):
        for group in _groups_with_nulls(file, column):
            images = (
                _read_group(str(file), group, column) if _is_parquet(file) else _mapped(str(file))[column]
            )
            if pa.types.is_struct(images.type) and images.type.get_field_index("path") >= 0:
                alone = pc.is_null(pc.struct_field(images, "bytes"))
                paths = pc.struct_field(images, "path").filter(alone)
                yield from (path for path in paths.to_pylist() if path is not None)


def _groups_with_nulls(file: Path, column: str) -> list[int]:
    """Row groups whose statistics do not rule out that images are missing."""
    if not _is_parquet(file):
        return [0]
    metadata = _metadata(file)
    names = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    if f"{column}.bytes" not in names:
        return []
    number = names.index(f"{column}.bytes")
    statistics = [
        metadata.row_group(group).column(number).statistics for group in range(metadata.num_row_groups)
    ]
    return [
        group
        for group, known in enumerate(statistics)
        if known is None or not known.has_null_count or known.null_count
    ]


def open_row(root: str, file: str, group: int, column: str, row: int) -> Image.Image:
    """The image of a row of a group. Raises OSError when it cannot be read."""
    try:
        images = _cached_group(file, group, column) if _is_parquet(Path(file)) else _mapped(file)[column]
        value = images[row].as_py()
    except pa.ArrowException as error:
        raise OSError(f"damaged in the table ({error})") from error
    payload = value["bytes"] if isinstance(value, dict) else value
    path = value.get("path") if isinstance(value, dict) else None
    if payload is not None:
        return open_image(io.BytesIO(payload))
    if path is None:
        raise OSError("the row has no image")
    return open_image(path_inside(Path(root), path, Path(file)))


def path_inside(root: Path, path: str, file: Path) -> Path:
    """A path that a table holds, which starts at `root`. Raises SourceError where it leads out or nowhere."""
    folder = root.resolve()
    with suppress(ValueError, OSError):  # of a path that no file can have
        place = (folder / path).resolve()
        if place.is_relative_to(folder) and place.is_file():
            return place
    raise SourceError(
        f"{file} has the path {printable(path)[:_SHOWN]} in place of an image, which is no file in {folder}; "
        "put it there or give a table that holds the images"
    )


def _is_parquet(file: Path) -> bool:
    return file.suffix.lower() == ".parquet"


def _mapped(file: str) -> pa.Table:
    """Costs address space, not memory."""
    return _mapped_state(*listed(file, Path(file)))


@lru_cache(maxsize=1024)
def _mapped_state(file: str, size: int, mtime: int) -> pa.Table:
    with pa.memory_map(file) as source:
        for message in pa.ipc.MessageReader.open_stream(source):
            refuse_compressed(message.metadata.to_pybytes())
    with pa.memory_map(file) as source:
        table = pa.ipc.open_stream(source).read_all()
    table.validate(full=True)  # else a place beyond the file's end would be read, or end the process
    return table


def _cached_group(file: str, group: int, column: str) -> pa.ChunkedArray:
    """The least recently used row groups go first. Threads that meet here read twice at worst."""
    key = (*listed(file, Path(file)), group, column)
    images = _cached.pop(key, None)
    if images is None:
        images = _read_group(file, group, column)
        sizes = {other: held.nbytes for other, held in list(_cached.items())}
        while sizes and sum(sizes.values()) + images.nbytes > _CACHED_BYTES:
            oldest = next(iter(sizes))
            del sizes[oldest]
            _cached.pop(oldest, None)
    _cached[key] = images
    return images


def _read_group(file: str, group: int, column: str) -> pa.ChunkedArray:
    # Without threads: after a fork Arrow's pool would not be there.
    with open(file, "rb") as stream:
        metadata = read_metadata(stream)
        refuse_bomb(stream, metadata, group, [column])
    with pq.ParquetFile(file, metadata=metadata) as table:
        return table.read_row_group(group, columns=[column], use_threads=False)[column]
