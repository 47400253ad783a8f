"""The permutohedral lattice and its filter in plain Python: slow and literal, the measure for pipeline.crf.lattice.

Vertices are tuples of all d + 1 coordinates, kept in a dictionary. Follows Adams et al. (2010) step by step, in float32
where Kraehenbuehl's library has float32, and fills the last four pixels with zeros as that does.
"""

from collections.abc import Iterator

import numpy as np

Vertex = tuple[int, ...]
F = np.float32


def simplex(point: np.ndarray) -> list[tuple[Vertex, np.float32]]:
    """The d + 1 vertices around one point (d,), by remainder, with their barycentric weights."""
    dims = len(point)
    deviation = float(F(np.sqrt(2.0 / 3.0) * (dims + 1)))
    elevated, total = [F(0)] * (dims + 1), F(0)
    for j in range(dims, 0, -1):
        scaled = point[j - 1] * F(1.0 / np.sqrt(j * (j + 1.0)) * deviation)
        elevated[j] = total - F(j) * scaled
        total = total + scaled
    elevated[0] = total
    nearest = [int(np.rint(F(1.0 / (dims + 1)) * x)) * (dims + 1) for x in elevated]
    surplus = sum(nearest) // (dims + 1)
    order = sorted(range(dims + 1), key=lambda j: (-(elevated[j] - F(nearest[j])), j))
    rank = {j: place + surplus for place, j in enumerate(order)}
    for j in range(dims + 1):
        wrap = (rank[j] < 0) - (rank[j] > dims)
        rank[j] += wrap * (dims + 1)
        nearest[j] += wrap * (dims + 1)
    rest = {rank[j]: (elevated[j] - F(nearest[j])) * F(1.0 / (dims + 1)) for j in range(dims + 1)}
    weights = [rest[dims] + (F(1) - rest[0])] + [rest[dims - r] - rest[dims - r + 1] for r in range(1, dims + 1)]
    keys = [
        tuple(nearest[j] + r - (dims + 1 if rank[j] > dims - r else 0) for j in range(dims + 1))
        for r in range(dims + 1)
    ]
    return list(zip(keys, weights))


def simplices(features: np.ndarray) -> tuple[list[list[tuple[Vertex, np.float32]]], set[Vertex]]:
    """The simplex of every pixel of (d, N) features, and all vertices that exist, those of the padding too."""
    padding = np.zeros((len(features), -features.shape[1] % 4), F)
    everywhere = [simplex(point) for point in np.concatenate([features, padding], axis=1).T]
    return everywhere[: features.shape[1]], {key for corners in everywhere for key, _ in corners}


def neighbour(vertex: Vertex, axis: int) -> Vertex:
    """One less in every coordinate, d more in that of the axis."""
    return tuple(x + (len(vertex) - 1 if j == axis else -1) for j, x in enumerate(vertex))


def links(vertices: set[Vertex], axis: int) -> Iterator[tuple[Vertex, Vertex]]:
    """All pairs of a vertex and its neighbour."""
    return ((vertex, neighbour(vertex, axis)) for vertex in vertices if neighbour(vertex, axis) in vertices)


def convolve(features: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Splat, blur and slice a plane (N,): (N,) float64."""
    pixels, vertices = simplices(features)
    values = dict.fromkeys(vertices, 0.0)
    for corners, value in zip(pixels, plane):
        for key, weight in corners:
            values[key] += float(weight) * float(value)
    for axis in range(len(features) + 1):
        blurred = dict(values)
        for one, other in links(vertices, axis):
            blurred[one] += 0.5 * values[other]
            blurred[other] += 0.5 * values[one]
        values = blurred
    alpha = 1 / (1 + 2.0 ** -len(features))
    return np.array([alpha * sum(float(weight) * values[key] for key, weight in corners) for corners in pixels])


def filtered(features: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """The Gaussian filter with symmetric normalisation of a plane (N,): (N,) float64."""
    scale = 1 / np.sqrt(convolve(features, np.ones(features.shape[1])) + 1e-20)
    return scale * convolve(features, scale * plane)


def features_of(image: np.ndarray, sxy: float, srgb: float | None = None) -> np.ndarray:
    """Features (2, H*W) float32 of an (H, W, 3) image: x and y over sxy; with srgb (5, H*W): the colours over that."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(F)
    rows = [x / F(sxy), y / F(sxy)]
    if srgb is not None:
        rows += [image[..., colour].astype(F) / F(srgb) for colour in range(3)]
    return np.stack(rows).reshape(len(rows), -1)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (K, N) of logits (K, N)."""
    powers = np.exp(logits - logits.max(axis=0))
    return powers / powers.sum(axis=0)


def mean_field(log_probs: np.ndarray, kernels: list[np.ndarray], compats: list[float], iterations: int) -> np.ndarray:
    """Q (K, N) after some iterations; the features of each kernel (d, N), and its Potts weight."""
    q = softmax(log_probs)
    for _ in range(iterations):
        logits = log_probs.astype(np.float64)
        for features, compat in zip(kernels, compats):
            logits += compat * np.stack([filtered(features, plane) for plane in q])
        q = softmax(logits)
    return q
