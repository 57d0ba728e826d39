"""Fields of an array of structs out of a MATLAB file, as ImageNet's devkit has them.

Of "MAT-File Format", version 5 (MathWorks): elements of a tag (type, number of bytes) and bytes, padded to 8.
`scipy.io.loadmat` reads all of it, and ends the process at many a damaged file.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence

_HEADER = 128  # bytes before the first element
_COMPRESSED, _MATRIX = 15, 14  # types of elements that hold others
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_TEXTS = {1: "utf-8", 2: "utf-8", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}
_CHARACTERS, _STRUCTS = 4, 2  # classes of matrices
_LARGEST = 64 << 20  # unpacked bytes

Element = tuple[int, bytes]


def read_structs(content: bytes, variable: str, fields: Sequence[str]) -> Iterator[tuple[int | str, ...]]:
    """The fields of each struct: single numbers as integers, or text.

    content: of a file that MATLAB wrote on a machine of little-endian numbers. Raises ValueError,
    LookupError, ArithmeticError, struct.error or zlib.error where they are not there.
    """
    if content[_HEADER - 2 : _HEADER] != b"IM":
        raise ValueError("it is no MATLAB file of version 5")
    for kind, data in _elements(content[_HEADER:]):
        if kind == _COMPRESSED:
            kind, data = next(_elements(_unpacked(data)), (0, b""))
        if kind == _MATRIX:
            flags, _, name, *rest = _elements(data)
            if _text(name) == variable and flags[1][0] == _STRUCTS:
                yield from _structs(rest, fields)
                return
    raise ValueError(f"it has no structs {variable}")


def _structs(elements: list[Element], fields: Sequence[str]) -> Iterator[tuple[int | str, ...]]:
    length, names = int(_numbers(elements[0])[0]), elements[1][1]
    if length < 1:
        raise ValueError("its structs have fields without names")
    known = [names[start : start + length].split(b"\0")[0] for start in range(0, len(names), length)]
    places = [known.index(field.encode()) for field in fields]
    values = elements[2:]
    for start in range(0, len(values), len(known)):
        yield tuple(_value(values[start + place]) for place in places)


def _value(element: Element) -> int | str:
    """Of a matrix that holds one number or one text."""
    if element[0] != _MATRIX:
        raise ValueError("a field of its structs is no matrix")
    flags, _, _, content, *_ = _elements(element[1])
    return _text(content) if flags[1][0] == _CHARACTERS else int(_numbers(content)[0])


def _elements(content: bytes) -> Iterator[Element]:
    """(type, bytes) of each element, one after another."""
    place = 0
    while place < len(content):
        kind, size = struct.unpack_from("<II", content, place)
        start, after = place + 8, place + 8 + size
        if kind >> 16:  # a short one: all of it in 8 bytes
            kind, size = kind & 0xFFFF, kind >> 16
            start, after = place + 4, place + 8
        if start + size > len(content):
            raise ValueError("it ends within an element")
        yield kind, content[start : start + size]
        place = after if kind == _COMPRESSED else -(-after // 8) * 8


def _unpacked(content: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(content, _LARGEST)
    if unpacker.unconsumed_tail:
        raise ValueError(f"a part of it unpacks to more than {_LARGEST:,} bytes")
    return unpacked


def _numbers(element: Element) -> tuple[float, ...]:
    kind, data = element
    sign = _NUMBERS[kind]
    numbers: tuple[float, ...] = struct.unpack(f"<{len(data) // struct.calcsize(sign)}{sign}", data)
    return numbers


def _text(element: Element) -> str:
    return element[1].decode(_TEXTS[element[0]])
