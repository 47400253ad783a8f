"""Mean-field inference of dense CRFs, by tensor operations on any device (Kraehenbuehl & Koltun, 2011).

No sum depends on the number of threads or on the order in which a GPU happens to run: the same input gives the same
bits on one machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.crf.lattice_torch import Lattice

MAX_PLANES = 8  # filtered together; bounds memory
LEAST_LOGIT = -40.0  # e^-40 changes no sum: the probability of what lies below is 0, clear of slow denormal numbers


@dataclass(frozen=True)
class Filter:
    """A Gaussian filter with symmetric normalisation.

    lattice  its weights and shares include the normalisation
    of_ones  (P,) float32, what the filter makes of an image of ones
    """

    lattice: Lattice
    of_ones: Tensor


def gaussian_filter(lattice: Lattice) -> Filter:
    """The filter of a lattice: D L D, where L is splat, blur, slice and D = (L 1)^-1/2."""
    ones = torch.ones_like(lattice.weights[:, :1])  # (P, 1)
    slicing = 1 / (1 + 2.0 ** -(lattice.weights.shape[1] - 1))
    norm = _filtered(lattice, ones) * slicing
    scale = torch.sqrt(slicing / (norm + 1e-20))
    shares = lattice.shares * scale[lattice.pixels]
    normalised = replace(lattice, weights=lattice.weights * scale, shares=shares)
    return Filter(normalised, _filtered(normalised, ones)[:, 0])


def infer(log_probs: Tensor, filters: Sequence[Filter], compats: Sequence[float], iterations: int) -> Tensor:
    """Q after some mean-field iterations.

    log_probs  (K, P) float32, minus the unary energies; -inf for labels that a pixel cannot have (never label 0)
    filters    the pairwise kernels; compats  the Potts weight of each
    Returns (K, P) float32, summing to 1 over K, exactly 0 where log_probs is -inf.
    """
    # Q sums to 1 and the filters are linear, so the message of label 0 is that of ones less those of the others.
    of_ones = torch.zeros_like(log_probs[0])
    for kernel, compat in zip(filters, compats):
        of_ones.add_(kernel.of_ones, alpha=compat)
    q = _softmax(log_probs)
    for _ in range(iterations):
        messages = torch.zeros_like(q)  # (K, P): q, filtered and weighted
        for start in range(1, len(q), MAX_PLANES):
            planes = q[start : start + MAX_PLANES].T.contiguous()
            for kernel, compat in zip(filters, compats):
                messages[start : start + MAX_PLANES].add_(_filtered(kernel.lattice, planes).T, alpha=compat)
        messages[0] = of_ones
        for message in messages[1:]:  # one after the other, so that labels of zeros at the end change no bit
            messages[0] -= message
        q = _softmax(log_probs + messages)
    return q


def _softmax(logits: Tensor) -> Tensor:
    """Probabilities (K, P) from logits (K, P)."""
    lowered = logits - logits.amax(dim=0)
    q = torch.threshold_(lowered, LEAST_LOGIT, -torch.inf).exp_()
    total = q[0].clone()
    for plane in q[1:]:  # in this order, for the same reason as above
        total += plane
    return q.div_(total)


def _filtered(lattice: Lattice, planes: Tensor) -> Tensor:
    """Splat, blur and slice planes (P, C), with the weights as they are: (P, C)."""
    values = planes.index_select(0, lattice.pixels).mul_(lattice.shares)  # (E, C)
    for offsets in lattice.sums:
        values = _summed(values, offsets)
    for pair in lattice.neighbours:
        both = values.index_select(0, pair.view(-1)).view(2, *values.shape)  # (2, M + 1, C)
        values.add_(both[0].add_(both[1]), alpha=0.5)
    values = values.index_select(0, lattice.vertices.view(-1)).mul_(lattice.weights.view(-1, 1))  # (E, C)
    corners = lattice.weights.shape[1]
    return _summed(values, torch.arange(0, len(values) + 1, corners, device=values.device))


def _summed(values: Tensor, offsets: Tensor) -> Tensor:
    """The sums of runs of rows, each run from its first row to its last: no atomic additions."""
    return torch.segment_reduce(values, "sum", offsets=offsets, axis=0, unsafe=True)
