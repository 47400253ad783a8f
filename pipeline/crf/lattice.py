"""The permutohedral lattice of an image: which vertices its pixels touch, and who neighbours whom (Adams et al., 2010).

Vertices, weights and neighbours are those of Kraehenbuehl's library, float32 operation by operation; the way there
differs. All in one file: numba's cache notices changes only in the file of the caller.

Letters: d dimensions of a feature, N pixels, M vertices. A pixel lies in a simplex of d + 1 vertices. The d + 1
integer coordinates of a vertex sum to 0 and have their remainder modulo d + 1 in common, so that remainder and the
quotients of its first d coordinates name a vertex. Written as the digits of one integer, they are its code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np

PIXELS_AT_ONCE = 4  # the library fills the last four with features of zero, and their vertices exist too
MAX_VERTICES = 1 << 31  # a chain entry is 32 bits, one of them for the link
CODE_BITS = 63
REMAINDERS = 8  # values that the remainder may have in a code: d < 8
BLOCK = 256  # points looked up together: enough memory accesses under way to hide what each would wait

# Odd: the low n bits of code * _MIX differ for all codes of n bits; the high bits are mixed.
_MIX = np.uint64(0x9E3779B97F4A7C15)
_FREE = np.uint64(0)


@dataclass(frozen=True)
class Lattice:
    """How N pixels are spread over M vertices, and how the vertices are linked.

    vertices  (N, d + 1) uint32, in [0, M)
    weights   (N, d + 1) float32, barycentric: each row sums to 1
    chains    d + 1 arrays uint32, one an axis: 2 * vertex, plus 1 where the next entry is its neighbour. Vertices
              without neighbours on the axis are left out.
    size      M
    """

    vertices: np.ndarray
    weights: np.ndarray
    chains: tuple[np.ndarray, ...]
    size: int


class Digits(NamedTuple):
    """How a vertex is written as a code: sum of (quotient - low) * unit over the coordinates, plus the remainder.

    low    (d + 1,) int64, no quotient is below
    units  (d + 1,) int64; 0 for the last coordinate, which follows from the others
    bits   of the largest code
    """

    low: np.ndarray
    units: np.ndarray
    bits: int


class Table(NamedTuple):
    """Codes by vertex, and an open hash table from codes to vertices.

    codes    int64, as many as the table may hold: it is never more than half full
    slots    uint64, a power of two: the low bits of code * _MIX, then vertex + 1 in `id_bits`; 0 is free
    id_bits  width of vertex + 1
    unique   whether the bits of the hash in a slot differ for all codes
    """

    codes: np.ndarray
    slots: np.ndarray
    id_bits: int
    unique: bool


def kernel(function: Callable) -> Any:
    """Compile with numba when first called, and keep the result on disk where there is a place for it."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither __pycache__ nor the user's cache directory can be written
        return numba.njit(nogil=True)(function)


def build(features: np.ndarray, slots: int = 0) -> Lattice:
    """The lattice of (d, N) float32 features, finite, each already divided by its standard deviation.

    `slots` is the size of the hash table to begin with, a power of two; it grows as needed.
    Raises ValueError for more pixels than can be numbered, or deviations so small that a code needs over 63 bits.
    """
    dims, count = features.shape
    most = (count + PIXELS_AT_ONCE) * (dims + 1)
    if most >= MAX_VERTICES:
        raise ValueError(f"{count} pixels are too many for a lattice of {dims} dimensions")
    points = np.zeros((dims, count + -count % PIXELS_AT_ONCE), np.float32)
    points[:, :count] = features
    digits = code_digits(points)
    slots, id_bits = slots or 1 << max(12, (3 * count).bit_length()), most.bit_length()
    unique = digits.bits + id_bits <= 64
    table = Table(np.empty(slots // 2, np.int64), np.zeros(slots, np.uint64), id_bits, unique)
    vertices = np.empty((points.shape[1], dims + 1), np.uint32)
    weights = np.empty((points.shape[1], dims + 1), np.float32)
    scale, low, units = elevation(dims), digits.low, digits.units
    done, size = _place(points, scale, low, units, 0, 0, vertices, weights, *table)
    while done < points.shape[1]:
        larger = np.zeros(4 * table.slots.size, np.uint64)
        table = table._replace(codes=np.resize(table.codes, 4 * table.codes.size), slots=larger)
        _refill(size, *table)
        done, size = _place(points, scale, low, units, done, size, vertices, weights, *table)
    chains = tuple(_chain(_neighbours(size, *code_steps(digits, axis), *table)) for axis in range(dims + 1))
    return Lattice(vertices[:count], weights[:count], chains, size)


def elevation(dims: int) -> np.ndarray:
    """Scale factors (d,) float32 that take features to the lattice (Adams et al., p. 5 and 6)."""
    deviation = np.float64(np.float32(np.sqrt(2.0 / 3.0) * (dims + 1)))
    steps = np.arange(dims)
    return (1.0 / np.sqrt((steps + 2.0) * (steps + 1.0)) * deviation).astype(np.float32)


def code_digits(points: np.ndarray) -> Digits:
    """The digits that all vertices around points (d, N), and their neighbours, can be written in.

    The range of a quotient follows from the range of the features. It is widened by 4 for rounding, for wrapping into
    the simplex, for the far vertices of the simplex and for their neighbours.
    """
    dims = len(points)
    matrix = np.triu(np.ones((dims + 1, dims))) - np.diag(np.arange(1.0, dims + 1), -1)[:, :dims]
    matrix = matrix * elevation(dims) / (dims + 1)
    ends = np.stack([matrix * points.min(axis=1), matrix * points.max(axis=1)])
    low = np.floor(ends.min(axis=0).sum(axis=1)) - 4
    high = np.ceil(ends.max(axis=0).sum(axis=1)) + 4
    unit, units = REMAINDERS, []
    for span in (high - low + 1)[:dims]:
        units.append(unit)
        unit *= int(span)
    if unit.bit_length() > CODE_BITS:
        raise ValueError("the standard deviations are too small for this image: the lattice is too fine to be numbered")
    return Digits(low.astype(np.int64), np.array([*units, 0], np.int64), unit.bit_length())


def code_steps(digits: Digits, axis: int) -> tuple[int, int]:
    """What to add to a code to get its neighbour on an axis: if its remainder is 0, and else.

    The neighbour has 1 less in every coordinate, and d + 1 more in that of the axis.
    """
    dims = len(digits.units) - 1
    return int(digits.units[axis] - digits.units.sum() + dims), int(digits.units[axis] - 1)


@kernel
def _home(code, slots):
    """The slot where the search for a code begins."""
    return ((np.uint64(code) * _MIX) >> np.uint64(32)) & np.uint64(slots.size - 1)


@kernel
def _vertex(entry, id_bits):
    """The vertex in the content of a slot; -1 where it is free."""
    return np.int64(entry & ((np.uint64(1) << np.uint64(id_bits)) - np.uint64(1))) - 1


@kernel
def _entry(code, vertex, id_bits):
    """The content of a slot."""
    return ((np.uint64(code) * _MIX) << np.uint64(id_bits)) | np.uint64(vertex + 1)


@kernel
def _holds(entry, code, codes, id_bits, unique):
    """Whether the content of a slot stands for the code."""
    other = (entry ^ _entry(code, -1, id_bits)) >> np.uint64(id_bits)
    same = (entry != _FREE) & (other == 0)  # no branch: what is in a slot cannot be predicted
    if unique:
        return same
    return same and codes[_vertex(entry, id_bits)] == code


@kernel
def _find(code, codes, slots, id_bits, unique):
    """The slot of the code, or the free one where it belongs."""
    at = _home(code, slots)
    while slots[at] != _FREE and not _holds(slots[at], code, codes, id_bits, unique):
        at = (at + np.uint64(1)) & np.uint64(slots.size - 1)
    return at


@kernel
def _refill(size, codes, slots, id_bits, unique):
    """Enter the first `size` codes into empty slots."""
    for vertex in range(size):
        at = _find(codes[vertex], codes, slots, id_bits, unique)
        slots[at] = _entry(codes[vertex], vertex, id_bits)


@kernel
def _place(points, scale, low, units, start, size, vertices, weights, codes, slots, id_bits, unique):
    """Find vertices and weights of the points from `start` on, numbering new vertices from `size` on.

    Returns the point it came to and the number of vertices: it stops where the table might be more than half full.
    """
    corners = len(points) + 1
    entries = np.empty(BLOCK * corners, np.uint64)
    while start < points.shape[1] and size + BLOCK * corners <= codes.size:
        stop = min(start + BLOCK, points.shape[1])
        targets = _simplices(points[:, start:stop], scale, low, units, weights[start:stop]).ravel()
        result = vertices[start:stop].ravel()
        for e in range(targets.size):
            entries[e] = slots[_home(targets[e], slots)]
        for e in range(targets.size):
            entry = entries[e]
            if not _holds(entry, targets[e], codes, id_bits, unique):
                at = _find(targets[e], codes, slots, id_bits, unique)
                if slots[at] == _FREE:
                    codes[size] = targets[e]
                    slots[at] = _entry(targets[e], size, id_bits)
                    size += 1
                entry = slots[at]
            result[e] = _vertex(entry, id_bits)
        start = stop
    return start, size


@kernel
def _simplices(points, scale, low, units, weights):
    """Codes (n, d + 1) of the vertices around each of n points, and their weights (Adams et al., p. 5 and 10)."""
    dims, count = points.shape
    corners = dims + 1
    period, part, one = np.float32(corners), np.float32(1.0 / corners), np.float32(1)
    elevated = _elevated(points, scale)
    quotient = np.rint(part * elevated)
    rank = _ranks(elevated - quotient * period)
    code = np.zeros(count, np.int64)
    surplus = quotient.sum(axis=0)
    for j in range(corners):  # not on the plane where coordinates sum to 0: wrap around
        for p in range(count):
            rank[j, p] += surplus[p]
            wrap = np.float32(rank[j, p] < 0) - np.float32(rank[j, p] >= period)
            rank[j, p] += wrap * period
            quotient[j, p] += wrap
            code[p] += (np.int64(quotient[j, p]) - low[j]) * units[j]
    rest = (elevated - quotient * period) * part

    codes = np.empty((count, corners), np.int64)
    by_rank, unit_by_rank = np.empty(corners, np.float32), np.empty(corners, np.int64)
    for p in range(count):
        for j in range(corners):
            by_rank[np.uint64(rank[j, p])] = rest[j, p]
            unit_by_rank[np.uint64(rank[j, p])] = units[j]
        codes[p, 0] = code[p]
        weights[p, 0] = by_rank[dims] + (one - by_rank[0])
        for j in range(1, corners):
            codes[p, j] = codes[p, j - 1] + 1 - unit_by_rank[corners - j]
            weights[p, j] = by_rank[dims - j] - by_rank[corners - j]
    return codes


@kernel
def _elevated(points, scale):
    """Points (d, n) on the plane of the lattice, (d + 1, n)."""
    dims, count = points.shape
    elevated = np.zeros((dims + 1, count), np.float32)
    for j in range(dims, 0, -1):
        for p in range(count):
            scaled = points[j - 1, p] * scale[j - 1]
            elevated[j, p] = elevated[0, p] - np.float32(j) * scaled
            elevated[0, p] += scaled
    return elevated


@kernel
def _ranks(rest):
    """For each of (d + 1, n), how many of its column are larger; of equals, the earlier comes first."""
    rank = np.zeros(rest.shape, np.float32)
    one = np.float32(1)
    for i in range(len(rest) - 1):
        for j in range(i + 1, len(rest)):
            for p in range(rest.shape[1]):
                below = np.float32(rest[i, p] < rest[j, p])
                rank[i, p] += below
                rank[j, p] += one - below
    return rank


@kernel
def _neighbours(size, step_at_zero, step, codes, slots, id_bits, unique):
    """The neighbour (M,) int32 of every vertex on one axis, -1 where there is none. Steps: see code_steps."""
    following = np.empty(size, np.int32)
    targets, entries = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.uint64)
    for start in range(0, size, BLOCK):
        block, result = codes[start : min(start + BLOCK, size)], following[start : start + BLOCK]
        for i in range(block.size):
            targets[i] = block[i] + (step if block[i] & (REMAINDERS - 1) else step_at_zero)
            entries[i] = slots[_home(targets[i], slots)]
        for i in range(block.size):
            entry = entries[i]
            if (entry != _FREE) & (not _holds(entry, targets[i], codes, id_bits, unique)):
                entry = slots[_find(targets[i], codes, slots, id_bits, unique)]
            result[i] = _vertex(entry, id_bits)
    return following


@kernel
def _chain(following):
    """The chains of one axis (see Lattice) from the neighbour of each vertex."""
    is_first = np.ones(following.size + 1, np.bool_)
    for vertex in following:
        is_first[vertex] = False  # where there is no neighbour, -1 is the extra last element
    heads = np.empty(following.size + 1, np.int32)
    waiting = linked = 0
    for v in range(following.size):
        heads[waiting] = v
        waiting += is_first[v] & (following[v] >= 0)
        linked += following[v] >= 0
    chain = np.empty(linked + waiting, np.uint32)
    head, v = 0, heads[0]
    for e in range(chain.size):  # no branch: where a chain ends cannot be predicted
        goes_on = following[v] >= 0
        chain[e] = 2 * v + goes_on
        head += not goes_on
        v = following[v] if goes_on else heads[head]
    return chain
