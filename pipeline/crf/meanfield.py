"""Mean-field inference of a dense CRF, its Gaussian kernels on permutohedral lattices (Kraehenbuehl & Koltun, 2011).

Compiled functions take up to 8 planes at a time, in 1, 2, 4 or 8 lanes: the tuple `zeros` has as many elements, so
numba compiles once for each and unrolls the loops over them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numba
import numpy as np
from numba.cpython.unsafe.tuple import tuple_setitem

from pipeline.crf.lattice import Lattice, kernel

_CONFIG: Any = numba.config
_set: Any = tuple_setitem  # (lanes, c, value) -> lanes; unlike a small array, a tuple is kept in registers

MAX_PLANES = 8  # filtered together; bounds both memory and the number of compiled variants
LEAST_LOGIT = np.float32(-40)  # e^-40 changes no sum, and keeps clear of denormal numbers, which are slow
BLOCK = 1024  # pixels of which the softmax keeps all planes in the cache


@contextmanager
def _slp_vectorizer() -> Iterator[None]:
    """Let what is compiled meanwhile handle the lanes of a pixel as one vector (twice as fast; off in numba)."""
    before = _CONFIG.SLP_VECTORIZE
    _CONFIG.SLP_VECTORIZE = 1
    try:
        yield
    finally:
        _CONFIG.SLP_VECTORIZE = before


@_slp_vectorizer()
def gaussian_filter(lattice: Lattice) -> Lattice:
    """The lattice with symmetric normalisation in its weights: D L D, where L is splat, blur, slice, D = (L 1)^-1/2."""
    slicing = np.float32(1 / (1 + 2.0 ** -(len(lattice.chains) - 1)))
    norm = slicing * _filtered(lattice, np.ones((1, len(lattice.vertices)), np.float32))
    scale = np.sqrt(slicing / (norm + np.float32(1e-20)))
    return replace(lattice, weights=lattice.weights * scale[:, None])


@_slp_vectorizer()
def infer(log_probs: np.ndarray, filters: Sequence[Lattice], compats: Sequence[float], iterations: int) -> np.ndarray:
    """Q after some mean-field iterations.

    log_probs  (K, N) float32, minus the unary energies
    filters    the pairwise kernels, as gaussian_filter makes them; compats  the Potts weight of each
    Returns (K, N) float32, positive, summing to 1 over K.
    """
    values = [_empty_values(lattice, log_probs) for lattice in filters]
    q = np.zeros_like(log_probs)
    of_ones = q[0].copy()
    _softmax(q, log_probs, of_ones)
    for iteration in range(iterations):
        # Q sums to 1 and the filters are linear, so the message of label 0 is that of ones less those of the others.
        # That of ones is found in the first iteration, in the place of label 0: beside others a plane takes less time.
        if iteration == 0:
            q[0] = 1
        for start in range(min(iteration, 1), len(q), MAX_PLANES):
            planes = q[start : start + MAX_PLANES]
            for lattice, blurred in zip(filters, values):
                _blurred(lattice, planes, blurred)
            planes[:] = 0
            for lattice, compat, blurred in zip(filters, compats, values):
                _sliced(planes, lattice, compat, blurred)
        if iteration == 0:
            of_ones = q[0].copy()
        _softmax(q, log_probs, of_ones)
    return q


def _softmax(q: np.ndarray, log_probs: np.ndarray, of_ones: np.ndarray) -> None:
    """Messages (all but plane 0) to probabilities, in place (K, N)."""
    _logits(q, log_probs, of_ones)
    np.exp(q, out=q)  # several values at a time, as numba's is not
    _normalise(q)


def _filtered(lattice: Lattice, plane: np.ndarray) -> np.ndarray:
    """Splat, blur and slice one plane (1, N), with the weights as they are: (N,)."""
    out, values = np.zeros_like(plane), _empty_values(lattice, plane)
    _blurred(lattice, plane, values)
    _sliced(out, lattice, 1, values)
    return out[0]


def _empty_values(lattice: Lattice, planes: np.ndarray) -> np.ndarray:
    """(M * lanes,) float32, for the planes that are filtered together."""
    return np.empty(lattice.size * len(_lanes(planes[:MAX_PLANES])), np.float32)


def _blurred(lattice: Lattice, planes: np.ndarray, values: np.ndarray) -> None:
    """Splat planes (C, N) and blur, into the first M * lanes of the values."""
    zeros = _lanes(planes)
    values[: lattice.size * len(zeros)] = 0
    _splat(planes, lattice.vertices, lattice.weights, values, zeros)
    for chain in lattice.chains:
        _blur(values, chain, zeros)


def _sliced(planes: np.ndarray, lattice: Lattice, gain: float, values: np.ndarray) -> None:
    _slice(planes, lattice.vertices, lattice.weights, values, np.float32(gain), _lanes(planes))


def _lanes(planes: np.ndarray) -> tuple[np.float32, ...]:
    """A zero for each of 1, 2, 4 or 8 lanes: odd numbers of planes are faster, and compiled less often, when padded."""
    return (np.float32(0),) * (1 << (len(planes) - 1).bit_length())


@kernel
def _splat(planes, vertices, weights, values, zeros):
    """Add planes (C, N), weighted, to the values (M * lanes,) of the vertices around each pixel."""
    stride, last = np.uint64(len(zeros)), planes.shape[0] - 1
    pixel = zeros
    for i in range(vertices.shape[0]):
        for c in range(len(zeros)):
            pixel = _set(pixel, c, planes[min(c, last), i])  # an extra lane repeats the last plane
        for j in range(vertices.shape[1]):
            at, weight = np.uint64(vertices[i, j]) * stride, weights[i, j]
            for c in range(len(zeros)):
                values[at + np.uint64(c)] += weight * pixel[c]


@kernel
def _slice(planes, vertices, weights, values, gain, zeros):
    """Add gain times the weighted values of the vertices around each pixel to planes (C, N)."""
    stride, count = np.uint64(len(zeros)), planes.shape[0]
    for i in range(vertices.shape[0]):
        total = zeros
        for j in range(vertices.shape[1]):
            at = np.uint64(vertices[i, j]) * stride
            for c in range(len(zeros)):
                total = _set(total, c, total[c] + weights[i, j] * values[at + np.uint64(c)])
        for c in range(len(zeros)):
            if c < count:
                planes[c, i] += gain * total[c]


@kernel
def _blur(values, chain, zeros):
    """Blur along one axis in place: each vertex gets half of both neighbours' old values."""
    if chain.size == 0:
        return
    stride = np.uint64(len(zeros))
    at = np.uint64(chain[0] >> 1) * stride
    here, after, half_blurred = zeros, zeros, zeros
    for c in range(len(zeros)):
        here = _set(here, c, values[at + np.uint64(c)])
    half_blurred = here
    for e in range(chain.size - 1):
        share = np.float32(0.5) * np.float32(chain[e] & 1)
        following = np.uint64(chain[e + 1] >> 1) * stride
        for c in range(len(zeros)):
            after = _set(after, c, values[following + np.uint64(c)])
        for c in range(len(zeros)):
            values[at + np.uint64(c)] = half_blurred[c] + share * after[c]
        for c in range(len(zeros)):
            half_blurred = _set(half_blurred, c, after[c] + share * here[c])
        here = after
        at = following
    for c in range(len(zeros)):
        values[at + np.uint64(c)] = half_blurred[c]


@kernel
def _logits(q, log_probs, of_ones):
    """Messages of all labels but 0, in place (K, N), to logits of which the largest is 0."""
    top = np.empty(BLOCK, np.float32)
    for start in range(0, q.shape[1], BLOCK):
        stop = min(start + BLOCK, q.shape[1])
        others, first = of_ones[start:stop].copy(), q[0, start:stop]
        top[:] = -np.inf
        for k in range(1, len(q)):
            message, log_prob = q[k, start:stop], log_probs[k, start:stop]
            for p in range(message.size):
                others[p] -= message[p]
                message[p] += log_prob[p]
                top[p] = message[p] if message[p] > top[p] else top[p]
        log_prob = log_probs[0, start:stop]
        for p in range(first.size):
            first[p] = others[p] + log_prob[p]
            top[p] = first[p] if first[p] > top[p] else top[p]
        for k in range(len(q)):
            logit = q[k, start:stop]
            for p in range(logit.size):
                lowered = logit[p] - top[p]
                logit[p] = lowered if lowered > LEAST_LOGIT else LEAST_LOGIT


@kernel
def _normalise(q):
    """Divide planes (K, N) by their sum."""
    total = np.empty(BLOCK, np.float32)
    for start in range(0, q.shape[1], BLOCK):
        stop = min(start + BLOCK, q.shape[1])
        total[:] = 0
        for k in range(len(q)):
            part = q[k, start:stop]
            for p in range(part.size):
                total[p] += part[p]
        for p in range(stop - start):
            total[p] = np.float32(1) / total[p]
        for k in range(len(q)):
            part = q[k, start:stop]
            for p in range(part.size):
                part[p] *= total[p]
