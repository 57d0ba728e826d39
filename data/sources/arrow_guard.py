"""Whether a message of an Arrow stream is compressed, told by its header before any of it is unpacked.

Headers are FlatBuffers tables (arrow.apache.org/docs/format/Columnar.html, Message.fbs). Data sets that are
saved to disk are never compressed: they are mapped into memory.
"""

import struct

_DICTIONARY, _RECORDS = 2, 3  # types of messages that hold data
_TYPE, _HEADER = 1, 2  # fields of a message
_INNER = 1  # field of a dictionary's header: its records'
_COMPRESSION = 3  # field of records' header


def refuse_compressed(message: bytes) -> None:
    """Raises OSError for a message that would take more memory than it has bytes, or is damaged."""
    try:
        table = _reference(message, 0)
        kind = message[place] if (place := _field(message, table, _TYPE)) else 0
        if kind not in (_DICTIONARY, _RECORDS):
            return
        header = _reference(message, _field(message, table, _HEADER))
        if kind == _DICTIONARY:
            header = _reference(message, _field(message, header, _INNER))
        compressed = _field(message, header, _COMPRESSION)
    except (struct.error, IndexError) as error:
        raise OSError(f"a message of it is damaged: {error}") from error
    if compressed:
        raise OSError("it is compressed; save the data set as datasets' save_to_disk does")


def _reference(message: bytes, place: int) -> int:
    """The place of the table that is referred to at a place."""
    (offset,) = struct.unpack_from("<I", message, place)
    return int(place + offset)


def _field(message: bytes, table: int, number: int) -> int:
    """The place of a table's field; 0 when it is left out."""
    (back,) = struct.unpack_from("<i", message, table)
    (size,) = struct.unpack_from("<H", message, table - back)
    slot = 4 + 2 * number
    if slot >= size:
        return 0
    (offset,) = struct.unpack_from("<H", message, table - back + slot)
    return table + offset if offset else 0
