"""What reading a Parquet file would take, told by its headers before any page of it is unpacked.

A page of kilobytes may unpack to gigabytes, a value that is stored once may stand in every row, and a schema
may be nested deeper than Arrow's own recursion bears. Headers are Thrift structs in the compact protocol
(github.com/apache/parquet-format, github.com/apache/thrift: thrift-compact-protocol.md).
"""

import io
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

_MAGIC, _SCHEMA = b"PAR1", 2  # and the footer's field that holds the schema
_DEEPEST = 32  # of a schema; images need two
_MOST_ROWS = 1_000_000  # that may be there for nothing: of one value all over
_ROW_BYTES = 32  # of a row beyond them; an image has more
_FEW = 512 << 20  # bytes that are never too many
_LARGEST_RATIO = 20  # of unpacked bytes to packed ones; images are packed already
_DICTIONARY, _DATA = 2, (0, 3)  # types of pages
_BY_DICTIONARY, _BY_PREFIX = (2, 8), 7  # encodings of values
_BLOCK = 64 << 10  # bytes that are read at a time
_DAMAGED = (pa.ArrowException, struct.error, LookupError, ValueError, ArithmeticError, RecursionError)


def read_metadata(file: IO[bytes]) -> pq.FileMetaData:
    """Raises OSError for a schema or a number of rows that no file of this size has."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8))
    tail = file.read(8)
    if tail[4:] == _MAGIC:  # else Arrow says what is wrong with it
        file.seek(max(0, size - 8 - int.from_bytes(tail[:4], "little")))
        with _in_blocks(file) as blocks:
            _refuse_deep(blocks)
    file.seek(0)
    metadata = pq.read_metadata(file)
    num_rows = sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    if num_rows > max(_MOST_ROWS, size // _ROW_BYTES):
        raise OSError(f"it is said to have {num_rows:,} rows in {size:,} bytes")
    return metadata


def _refuse_deep(file: IO[bytes]) -> None:
    try:
        footer = _Thrift(file).fields(last=_SCHEMA)
    except _DAMAGED as error:
        raise OSError(f"its footer is damaged: {error}") from error
    if (depth := _depth(footer.get(_SCHEMA, []))) > _DEEPEST:
        raise OSError(f"its schema is {depth} levels deep; {_DEEPEST} are allowed")


def refuse_bomb(file: IO[bytes], metadata: pq.FileMetaData, group: int, columns: Sequence[str]) -> None:
    """Raises OSError where columns of a row group would take far more memory than they have bytes.

    columns: top-level names; none: all. What the footer says of their sizes counts for nothing.
    """
    with _in_blocks(file) as blocks:
        _refuse_bomb(blocks, metadata, group, columns)


@contextmanager
def _in_blocks(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Headers are read byte by byte, and from an object store each read is a request."""
    blocks = io.BufferedReader(file, _BLOCK)  # type: ignore[type-var]
    try:
        yield blocks
    finally:
        blocks.detach()


def _refuse_bomb(file: IO[bytes], metadata: pq.FileMetaData, group: int, columns: Sequence[str]) -> None:
    chunks = metadata.row_group(group)
    unpacked = packed = 0
    for number in range(chunks.num_columns):
        chunk = chunks.column(number)
        if columns and chunk.path_in_schema.split(".")[0] not in columns:
            continue
        try:
            for uncompressed, compressed in _pages(file, chunk):
                unpacked, packed = unpacked + uncompressed, packed + compressed
                if unpacked > max(_FEW, _LARGEST_RATIO * packed):
                    name = chunk.path_in_schema
                    raise OSError(
                        f"{name} unpacks to {unpacked:,} bytes or more, as a decompression bomb does"
                    )
        except _DAMAGED as error:
            raise OSError(f"its pages are damaged: {error}") from error


def _pages(file: IO[bytes], chunk: pq.ColumnChunkMetaData) -> Iterator[tuple[int, int]]:
    """(bytes that its values take in memory at most, bytes in the file) of each page of a column chunk."""
    if chunk.num_values <= 0:  # Arrow reads no page of it
        return
    place = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < place:
        place = chunk.dictionary_page_offset
    end, longest = place + chunk.total_compressed_size, 8
    while place < end:
        file.seek(place)
        thrift = _Thrift(file)
        header = thrift.fields()
        kind, unpacked, packed = header[1], header[2], header[3]
        if unpacked < 0 or packed < 0:
            raise ValueError(f"a page of {min(unpacked, packed)} bytes")
        place = file.tell() + packed
        if kind == _DICTIONARY and unpacked <= _FEW:
            longest = _longest(file.read(packed), unpacked, chunk)
        yield unpacked + _repeated(header, kind, unpacked, longest), packed


def _repeated(header: dict[int, Any], kind: int, unpacked: int, longest: int) -> int:
    """Bytes at most that a data page's values take beyond its own: each may be the longest that there is."""
    if kind not in _DATA:
        return 0
    own = header[5 if kind == 0 else 8]
    num_values, encoding = own[1], own[2 if kind == 0 else 4]
    if num_values < 0:
        raise ValueError(f"a page of {num_values} values")
    each = unpacked if encoding == _BY_PREFIX else longest if encoding in _BY_DICTIONARY else 8
    return int(num_values * each)


def _longest(page: bytes, unpacked: int, chunk: pq.ColumnChunkMetaData) -> int:
    """Bytes of the longest value in a dictionary page."""
    if chunk.physical_type == "FIXED_LEN_BYTE_ARRAY":
        return unpacked
    if chunk.physical_type != "BYTE_ARRAY":
        return 12
    page, longest, place = _unpacked(page, unpacked, chunk.compression.lower()), 8, 0
    while place < len(page):
        (length,) = struct.unpack_from("<I", page, place)
        longest, place = max(longest, length), place + 4 + length
    return min(longest, unpacked)


def _unpacked(page: bytes, size: int, codec: str) -> bytes:
    """`size` bytes, and no other number."""
    if codec == "uncompressed":
        return page
    if codec != "lz4":
        return pa.decompress(page, size, codec).to_pybytes()
    try:
        return pa.decompress(page, size, "lz4_raw").to_pybytes()
    except OSError:  # with Hadoop's two lengths before it
        return pa.decompress(page[8:], size, "lz4_raw").to_pybytes()


def _depth(schema: Sequence[dict[int, Any]]) -> int:
    """Of a tree, given by its elements in depth-first order, each with its number of children."""
    deepest, open_levels = 0, list[int]()
    for element in schema:
        while open_levels and open_levels[-1] == 0:
            open_levels.pop()
        if open_levels:
            open_levels[-1] -= 1
        open_levels.append(element.get(5, 0))
        deepest = max(deepest, len(open_levels))
    return deepest - 1


class _Thrift:
    """Reads structs of the compact protocol: numbers, lists and structs; texts are passed over."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def fields(self, last: int = 1 << 15) -> dict[int, Any]:
        """A struct by its fields' numbers, up to field `last`."""
        found: dict[int, Any] = {}
        number = 0
        while number < last and (head := self._byte()):
            number = number + (head >> 4) if head >> 4 else self._signed()
            found[number] = self._value(head & 15)
        return found

    def _value(self, kind: int) -> Any:
        if kind in (1, 2):  # in a struct, a field's type is its truth
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._signed()
        if kind == 7:
            return self._skip(8)
        if kind == 8:
            return self._skip(self._unsigned())
        if kind in (9, 10):
            return self._list()
        if kind == 12:
            return self.fields()
        raise ValueError(f"a header with a field of type {kind}")

    def _list(self) -> list[Any]:
        head = self._byte()
        size = self._unsigned() if head >> 4 == 15 else head >> 4
        kind = head & 15
        return [self._byte() if kind in (1, 2) else self._value(kind) for _ in range(size)]

    def _byte(self) -> int:
        return self._file.read(1)[0]

    def _signed(self) -> int:
        number = self._unsigned()
        return (number >> 1) ^ -(number & 1)

    def _unsigned(self) -> int:
        number = shift = 0
        while (byte := self._byte()) & 128 and shift < 63:
            number, shift = number | (byte & 127) << shift, shift + 7
        return number | byte << shift

    def _skip(self, size: int) -> None:
        self._file.seek(size, os.SEEK_CUR)
