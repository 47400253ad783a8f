"""What the CAM stage must compute, as matrix products, and how fast this machine does those alone."""

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from clip.transformer import VisionTransformer


class Shape(NamedTuple):
    """`batch` products of (rows, inner) with (inner, columns)."""

    batch: int
    rows: int
    inner: int
    columns: int

    @property
    def flops(self) -> int:
        """A multiplication and an addition count as two."""
        return 2 * self.batch * self.rows * self.inner * self.columns


Products = Counter[Shape]  # shape -> how many of them


@dataclass(frozen=True)
class Sizes:
    """Of a vision transformer: width D, L blocks, heads, the MLP's inner width, patch side in pixels."""

    width: int
    blocks: int
    heads: int
    inner: int
    patch: int


def sizes_of(visual: VisionTransformer) -> Sizes:
    blocks = visual.transformer.resblocks
    inner, width = blocks[0].mlp.c_fc.weight.shape
    return Sizes(width, len(blocks), blocks[0].attn.num_heads, inner, visual.conv1.kernel_size[0])


def flops(products: Products) -> int:
    return sum(shape.flops * times for shape, times in products.items())


def needed(sizes: Sizes, grid: tuple[int, int], classes: Sequence[int]) -> Products:
    """All products for a batch of images of a patch grid; classes says how many each image shows.

    What the method needs, not what our code happens to do: every block once forward, the last one backward once for
    every class (to the activations, not to the weights), T @ T, and the spreading of every map.
    """
    patches, images, maps = grid[0] * grid[1], len(classes), sum(classes)
    embedding = Products({Shape(1, images * patches, 3 * sizes.patch**2, sizes.width): 1})
    affinity = Products({Shape(images, patches, patches, patches): 1, Shape(1, maps, patches, patches): 1})
    blocks = Products({shape: times * sizes.blocks for shape, times in forward(sizes, patches + 1, images).items()})
    return embedding + blocks + backward(sizes, patches + 1, maps) + affinity


def forward(sizes: Sizes, tokens: int, images: int) -> Products:
    """One block."""
    width, rows, head = sizes.width, tokens * images, sizes.width // sizes.heads
    return Products(
        [
            Shape(1, rows, width, 3 * width),  # queries, keys, values
            Shape(images * sizes.heads, tokens, head, tokens),  # scores
            Shape(images * sizes.heads, tokens, tokens, head),  # mixed values
            Shape(1, rows, width, width),
            Shape(1, rows, width, sizes.inner),
            Shape(1, rows, sizes.inner, width),
        ]
    )


def backward(sizes: Sizes, tokens: int, maps: int) -> Products:
    """One block, from its output to its first layer norm, for as many maps."""
    width, rows, head = sizes.width, tokens * maps, sizes.width // sizes.heads
    return Products(
        [
            Shape(1, rows, width, sizes.inner),
            Shape(1, rows, sizes.inner, width),
            Shape(1, rows, width, width),
            Shape(maps * sizes.heads, tokens, head, tokens),  # to the attention
            *[Shape(maps * sizes.heads, tokens, tokens, head)] * 3,  # to values, queries, keys
            Shape(1, rows, 3 * width, width),
        ]
    )


def floor_seconds(products: Products, device: torch.device, precision: torch.dtype, repeats: int = 3) -> float:
    """Seconds that the products alone take here: each shape's median over the repeats, after one to warm up."""
    present = {shape: times for shape, times in products.items() if shape.flops}
    return sum(times * _seconds(shape, device, precision, repeats) for shape, times in present.items())


@torch.no_grad()
def _seconds(shape: Shape, device: torch.device, precision: torch.dtype, repeats: int) -> float:
    left = torch.randn(shape.batch, shape.rows, shape.inner, device=device).to(precision)
    right = torch.randn(shape.batch, shape.columns, shape.inner, device=device).to(precision).transpose(1, 2)
    if shape.batch == 1:  # weights lie as (columns, inner), as in a linear layer
        left, right, multiply = left[0], right[0], torch.mm
    else:
        multiply = torch.bmm
    out, seconds = multiply(left, right), []
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        multiply(left, right, out=out)
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
