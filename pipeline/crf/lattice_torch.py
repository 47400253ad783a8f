"""The permutohedral lattices of a batch of images, by tensor operations on any device (Adams et al., 2010).

Vertices, weights and neighbours are those of pipeline.crf.lattice and of Kraehenbuehl's library, float32 operation by
operation: products and sums stay in kernels of their own, as one fused kernel would round once where they round twice.

Letters: d dimensions of a feature, P pixels of all images, E = P * (d + 1) corners of their simplices, M vertices.
The vertices of an image are numbered by code, after those of the images before it, and sums run along the pixels of
an image in their order: nothing depends on the other images of the batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.crf.lattice import CODE_BITS, MAX_VERTICES, REMAINDERS, Digits, code_steps, elevation

PIECE = 32  # terms that are summed one after the other: thousands of pixels may share one vertex


@dataclass(frozen=True)
class Lattice:
    """How P pixels are spread over M vertices, and how the vertices are linked. Vertex M stands for "none".

    vertices    (P, d + 1) int32, in [0, M)
    weights     (P, d + 1) float32, barycentric: each row sums to 1; 0 for pixels that only fill up
    pixels      (E,) int32, the pixels of the corners sorted by vertex; shares (E, 1) float32, their weights
    sums        offsets (int64) of runs that are summed: of sorted corners, then of these sums, ...; in the end M + 1,
                the last of them empty. No run is longer than PIECE.
    neighbours  (d + 1, 2, M + 1) int32, in [0, M]: the vertices on both sides on each axis
    """

    vertices: Tensor
    weights: Tensor
    pixels: Tensor
    shares: Tensor
    sums: tuple[Tensor, ...]
    neighbours: Tensor


def build(features: Tensor, owners: Tensor, filling: Tensor, digits: Digits) -> Lattice:
    """The lattices of several images, side by side.

    features  (d, P) float32, each already divided by its standard deviation, within the range of the digits
    owners    (P,) int64, the number of the image that a pixel belongs to, ascending
    filling   (P,) bool, pixels whose vertices exist, but which weigh nothing
    Raises ValueError for more pixels than can be numbered, or where the codes of so many images need over 63 bits: see
    images_at_once.
    """
    dims, count = features.shape
    if count * (dims + 1) >= MAX_VERTICES:
        raise ValueError(f"{count} pixels are too many for a lattice of {dims} dimensions")
    if int(owners[-1]) >= images_at_once(digits):
        raise ValueError(f"{int(owners[-1]) + 1} images are too many for codes of {digits.bits} bits")
    codes, weights = simplices(features, digits)
    weights.masked_fill_(filling[:, None], 0)
    codes += (owners << digits.bits)[:, None]
    codes, order = torch.sort(codes.view(-1), stable=True)
    is_new = torch.cat([codes.new_ones(1, dtype=torch.bool), codes[1:] != codes[:-1]])
    numbers = torch.cumsum(is_new, 0, dtype=torch.int32) - 1
    vertices = torch.empty_like(numbers).scatter_(0, order, numbers).view_as(weights)
    pixels = torch.div(order, weights.shape[1], rounding_mode="floor").int()
    starts = is_new.nonzero()[:, 0]
    counts = torch.diff(starts, append=starts.new_tensor([len(codes), len(codes)]))
    shares = weights.view(-1, 1)[order]
    return Lattice(vertices, weights, pixels, shares, _runs(counts), _neighbours(codes[starts], digits))


def images_at_once(digits: Digits) -> int:
    """How many images a lattice may have: their number stands above the digits in a code."""
    return 1 << (CODE_BITS - digits.bits)


def simplices(features: Tensor, digits: Digits) -> tuple[Tensor, Tensor]:
    """Codes (P, d + 1) int64 of the vertices around each pixel, and their weights (Adams et al., p. 5 and 10)."""
    corners = len(features) + 1
    part = float(torch.tensor(1 / corners, dtype=torch.float32))
    low, units = (torch.from_numpy(array).to(features.device)[:, None] for array in (digits.low, digits.units))
    elevated = _elevated(features)
    quotient = torch.round(elevated * part)
    rank = _ranks(elevated - quotient * corners) + quotient.sum(dim=0)
    wrap = (rank < 0).float() - (rank >= corners).float()  # not on the plane where coordinates sum to 0
    quotient += wrap
    places = (rank + wrap * corners).long()
    code = ((quotient.long() - low) * units).sum(dim=0)

    rest = (elevated - quotient * corners) * part
    by_place = torch.empty_like(rest).scatter_(0, places, rest).flip(0)
    weights = torch.cat([by_place[:1] + (1 - by_place[-1:]), by_place[1:] - by_place[:-1]])
    unit_by_place = torch.empty_like(places).scatter_(0, places, units.expand_as(places)).flip(0)
    steps = torch.cat([code[None], 1 - unit_by_place[:-1]])
    return steps.cumsum(dim=0).T.contiguous(), weights.T.contiguous()


def _elevated(features: Tensor) -> Tensor:
    """Features (d, P) on the plane of the lattice, (d + 1, P)."""
    scale, total = elevation(len(features)).tolist(), torch.zeros_like(features[0])
    rows = []
    for j in range(len(features), 0, -1):
        scaled = features[j - 1] * scale[j - 1]
        rows.append(total - scaled * j)
        total = total + scaled
    return torch.stack([total, *rows[::-1]])


def _ranks(rest: Tensor) -> Tensor:
    """For each of (d + 1, P), how many of its column are larger, float32; of equals, the earlier comes first."""
    ranks = [
        (rest[:i] >= rest[i]).sum(dim=0, dtype=torch.float32) + (rest[i + 1 :] > rest[i]).sum(dim=0)
        for i in range(len(rest))
    ]
    return torch.stack(ranks)


def _runs(counts: Tensor) -> tuple[Tensor, ...]:
    """Lattice.sums from the number of corners (M + 1,) of each vertex.

    The runs of a vertex depend on nothing but its count: where others need another round, its one sum stays as it is.
    """
    rounds = []
    while int(counts.max()) > PIECE:
        pieces = (counts + PIECE - 1) // PIECE
        owner = torch.repeat_interleave(pieces)
        place = torch.arange(len(owner), device=owner.device) - (_offsets(pieces)[:-1])[owner]
        starts = _offsets(counts)
        rounds.append(torch.cat([starts[:-1][owner] + place * PIECE, starts[-1:]]))
        counts = pieces
    return *rounds, _offsets(counts)


def _offsets(counts: Tensor) -> Tensor:
    """Where runs of these lengths begin, and where the last ends."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _neighbours(codes: Tensor, digits: Digits) -> Tensor:
    """Lattice.neighbours from the ascending codes (M,)."""
    none = len(codes)
    numbers = torch.arange(none, dtype=torch.int32, device=codes.device)
    pairs = torch.full((len(digits.units), 2, none + 1), none, dtype=torch.int32, device=codes.device)
    at_zero = codes & (REMAINDERS - 1) == 0
    for axis, (following, preceding) in enumerate(pairs):
        step_at_zero, step = code_steps(digits, axis)
        targets = codes + torch.where(at_zero, step_at_zero, step)
        place = torch.searchsorted(codes, targets).clamp_(max=none - 1)
        place = torch.where(codes[place] == targets, place, none)
        following[:-1] = place
        preceding.scatter_(0, place, numbers)
        preceding[-1] = none  # where those without a neighbour wrote
    return pairs
