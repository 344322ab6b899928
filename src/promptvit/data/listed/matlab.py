"""MATLAB 5 files, as lists of images come in: numbers, texts, cells and structures.

SciPy's reader ends the whole process on some damaged files; this one reads less and trusts no size, for a list may come from anywhere.
Format: MathWorks, "MAT-File Format", level 5.
"""

import math
import struct
import zlib
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any

import numpy as np

LARGEST, DEEPEST = 2**28, 16  # bytes of an unpacked variable; cells within cells
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "utf-8", 2: "utf-8", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR, _FIRST_NUMBER = 1, 2, 4, 6


def read_matlab(content: bytes, names: Collection[str]) -> dict[str, list[Any]]:
    """Variables of a file, those of ``names`` that it has, flat in MATLAB's order.

    Returns:
        Lists of numbers, texts, or dicts of a structure's fields, in which a cell or array of one element stands for that element.

    Raises:
        ValueError: damaged, of another version, or with a kind of value that lists have no use for; struct.error, zlib.error: damaged.
    """
    order = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}.get(content[124:128])
    if order is None:
        raise ValueError("no MATLAB 5 file")
    found: dict[str, list[Any]] = {}
    for kind, data in _elements(memoryview(content)[128:], order):
        if kind == _COMPRESSED:
            kind, data = next(_elements(memoryview(_unpacked(data)), order))
        if kind != _MATRIX:
            raise ValueError(f"an element of kind {kind} among the variables")
        name, parts = _named(data, order)
        if name in names:
            found[name] = _values(parts, order, DEEPEST)
    return found


def _unpacked(data: memoryview) -> bytes:
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(data, LARGEST)
    if unpacker.unconsumed_tail:
        raise ValueError(f"a variable of more than {LARGEST:,} bytes")
    return unpacked


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Kind and content of each element. One of up to four bytes may have them in its tag."""
    place = 0
    while place < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, place)
        start = place + 8
        if kind >> 16:
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
            if size > 4:
                raise ValueError("an element that is longer than its tag")
        if start + size > len(data):
            raise ValueError("cut off")
        yield kind, data[start : start + size]
        place = start + size if kind == _COMPRESSED else max(place + 8, start + size + -(start + size) % 8)


def _named(data: memoryview, order: str) -> tuple[str, list[Any]]:
    """A variable's name, and what :func:`_values` needs of it: class, number of elements, and the rest of its parts."""
    parts = _elements(data, order)
    (flags, sizes, name) = (part for _, part in islice(parts, 3))
    kind = struct.unpack_from(f"{order}I", flags)[0] & 0xFF
    dimensions = np.frombuffer(sizes, f"{order}i4").tolist()
    if not dimensions or min(dimensions) < 0:
        raise ValueError("an array without dimensions")
    return bytes(name).decode(), [kind, math.prod(dimensions), parts]


def _values(matrix: list[Any], order: str, levels: int) -> list[Any]:
    """The elements of an array."""
    kind, count, parts = matrix
    if not levels:
        raise ValueError(f"cells within cells, deeper than {DEEPEST}")
    if kind == _CHAR:
        stored, data = next(parts, (1, b""))
        return [bytes(data).decode(f"{_TEXTS[stored]}{_ending(stored, order)}")]
    if kind >= _FIRST_NUMBER:
        stored, data = next(parts)
        numbers = np.frombuffer(data, f"{order}{_NUMBERS[stored]}")
        if len(numbers) != count:
            raise ValueError(f"{len(numbers)} numbers for an array of {count}")
        return numbers.tolist()
    if kind not in (_CELL, _STRUCT):
        raise ValueError(f"an array of class {kind}")
    fields = _fields(parts, order) if kind == _STRUCT else [""]
    inner = [_single(data, order, levels - 1) for _, data in parts]
    if not fields or len(inner) != count * len(fields):
        raise ValueError(f"{len(inner)} values for {count} elements of {len(fields)} fields")
    if kind == _CELL:
        return inner
    return [dict(zip(fields, inner[i : i + len(fields)], strict=True)) for i in range(0, len(inner), len(fields))]


def _single(data: memoryview, order: str, levels: int) -> Any:
    """A value within a cell or structure: itself if it is one, else a list."""
    values = _values(_named(data, order)[1], order, levels) if len(data) else []
    return values[0] if len(values) == 1 else values


def _fields(parts: Iterator[tuple[int, memoryview]], order: str) -> list[str]:
    length = struct.unpack_from(f"{order}i", next(parts)[1])[0]
    names = bytes(next(parts)[1])
    if length < 1:
        raise ValueError("names of fields without a length")
    return [names[i : i + length].split(b"\0")[0].decode() for i in range(0, len(names), length)]


def _ending(stored: int, order: str) -> str:
    return "" if _TEXTS[stored] == "utf-8" else "-le" if order == "<" else "-be"
