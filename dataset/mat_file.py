"""One matrix of a MATLAB file, or one field of a struct, read within bounds.

A reader of whole files, such as scipy's, recurses and allocates as deep and as much as the file says. Version 5 of the
format (MathWorks, "MAT-File Format"): a header of 128 bytes, then elements: type, size and data.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

HEADER = 128
MATRIX, COMPRESSED = 14, 15  # types of elements; the others are numbers
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
STRUCT = 2  # classes of matrices
INTEGERS = range(8, 16)


class DamagedMat(ValueError):
    """The bytes are no such file, or one without what is looked for."""


def struct_field(data: bytes, variable: str, field: str, max_bytes: int) -> np.ndarray:
    """A field of a struct (of its first element, where it is an array of structs), as stored: any shape, any numbers.

    max_bytes  what a compressed variable may become
    Raises DamagedMat for everything but such a file.
    """
    return _read(data, variable, max_bytes, lambda body, order: _numbers(_field(body, order, field), order))


def matrix(data: bytes, variable: str, max_bytes: int) -> np.ndarray:
    """A numeric matrix that is a variable of its own; else as `struct_field`."""
    return _read(data, variable, max_bytes, _numbers)


def _read(data: bytes, variable: str, max_bytes: int, numbers_of: Callable[[bytes, str], np.ndarray]) -> np.ndarray:
    """What `numbers_of` makes of a variable's bytes and their order ("<" or ">"); DamagedMat where it cannot."""
    order = {b"IM": "<", b"MI": ">"}.get(data[HEADER - 2 : HEADER])
    if order is None:
        raise DamagedMat("no header of version 5")
    try:
        for kind, body in _elements(data[HEADER:], order):
            if kind == COMPRESSED:
                kind, body = next(_elements(_inflated(body, max_bytes), order))
            if kind == MATRIX and _name(body, order) == variable:
                return numbers_of(body, order)
    except (struct.error, zlib.error, StopIteration, KeyError) as error:
        raise DamagedMat("cut short or overwritten") from error
    raise DamagedMat(f"no {variable} in it")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, data) of the elements that lie one behind another."""
    at = 0
    while at < len(data):
        (kind,) = struct.unpack_from(f"{order}I", data, at)
        if kind >> 16:  # a small one: size and data lie in the eight bytes of type and size
            kind, size, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        else:
            (size,) = struct.unpack_from(f"{order}I", data, at + 4)
            start = at + 8
            end = start + size + (-size % 8 if kind != COMPRESSED else 0)
        if start + size > min(end, len(data)):
            raise DamagedMat("an element longer than the file")
        yield kind, data[start : start + size]
        at = end


def _inflated(data: bytes, max_bytes: int) -> bytes:
    stream = zlib.decompressobj()
    inflated = stream.decompress(data, max_bytes)
    if not stream.eof:
        raise DamagedMat("compressed data that end too soon, or never")
    return inflated


def _name(matrix: bytes, order: str) -> str:
    """A matrix begins with its flags, its sides and its name."""
    return next(islice(_elements(matrix, order), 2, None))[1].decode("latin-1")


def _field(matrix: bytes, order: str, field: str) -> bytes:
    """The matrix in a field: behind the struct's name stand the length of a field's name, all of these, the fields."""
    elements = _elements(matrix, order)
    (_, flags), _, _, (_, length), (_, names) = islice(elements, 5)
    (step,) = struct.unpack(f"{order}i", length)
    if flags[0 if order == "<" else 3] != STRUCT or step < 1:
        raise DamagedMat("not a struct")
    known = [names[at : at + step].split(b"\0")[0].decode("latin-1") for at in range(0, len(names), step)]
    if field not in known:
        raise DamagedMat(f"no {field} in it")
    kind, body = next(islice(elements, known.index(field), None))
    if kind != MATRIX:
        raise DamagedMat("a field that is no matrix")
    return body


def _numbers(matrix: bytes, order: str) -> np.ndarray:
    """The array of a numeric matrix; its numbers may be stored in a smaller type than those of its class."""
    (_, flags), (_, sides), _, (kind, body) = islice(_elements(matrix, order), 4)
    shape = struct.unpack(f"{order}{len(sides) // 4}i", sides)
    if min(shape, default=-1) < 0:  # numpy would work -1 out
        raise DamagedMat("sides below zero, or none")
    numbers = np.frombuffer(body, f"{order}{NUMBERS[kind]}")
    whole = flags[0 if order == "<" else 3] in INTEGERS
    return numbers.reshape(shape, order="F") if whole else numbers.reshape(shape, order="F").astype(float)
