"""Counted products against torch's own counter."""

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import Products, Shape, Sizes, backward, floor_seconds, flops, forward, needed, sizes_of
from clip.load import Clip
from clip.vision import run_block, vision_forward
from pipeline.steps.affinity import transition_matrix
from tests.support import PATCH, tiny_model


def counted(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def test_sizes(tiny_clip: Clip) -> None:
    assert sizes_of(tiny_clip.visual) == Sizes(width=64, blocks=3, heads=1, inner=256, patch=PATCH)


def test_forward() -> None:
    """Two heads, two images, a grid that is not square; the embedding is `needed` without anything else."""
    visual = tiny_model(width=128, layers=2).visual
    sizes, images = sizes_of(visual), torch.randn(2, 3, 5 * PATCH, 3 * PATCH)
    embedding = 2 * 2 * 15 * 3 * PATCH**2 * 128
    wanted = counted(lambda: vision_forward(visual, images))
    assert embedding + 2 * flops(forward(sizes, 16, 2)) == wanted


def test_backward() -> None:
    visual = tiny_model(width=128, layers=1).visual
    block, tokens = visual.transformer.resblocks[0], torch.randn(3, 10, 128)
    normed = block.ln_1(tokens).requires_grad_()
    output, _ = run_block(block, tokens, normed=normed, need_attention=True)
    assert counted(lambda: torch.autograd.grad(output.sum(), normed)) == flops(backward(sizes_of(visual), 10, 3))


def test_needed_is_all_of_it(tiny_clip: Clip) -> None:
    """Of two images with one and three classes: forward, four backward passes, affinities, four maps along them."""
    sizes, maps = sizes_of(tiny_clip.visual), torch.rand(4, 12)
    images = torch.randn(2, 3, 3 * PATCH, 4 * PATCH)
    attention = torch.rand(2, 12, 12)
    wanted = counted(lambda: vision_forward(tiny_clip.visual, images)) + flops(backward(sizes, 13, 4))
    wanted += counted(lambda: transition_matrix(attention)) + counted(lambda: maps @ attention[0])
    assert flops(needed(sizes, (3, 4), [1, 3])) == wanted


def test_classes_cost_a_backward_pass_and_a_map_each(tiny_clip: Clip) -> None:
    sizes = sizes_of(tiny_clip.visual)
    more = flops(needed(sizes, (3, 4), [2])) - flops(needed(sizes, (3, 4), [0]))
    assert more == flops(backward(sizes, 13, 2)) + 2 * (2 * 12 * 12)


def test_seconds_are_those_of_every_product() -> None:
    once = Products({Shape(1, 256, 256, 256): 1, Shape(1, 0, 5, 5): 1})
    often = Products({Shape(1, 256, 256, 256): 1000, Shape(2, 8, 8, 8): 1})
    device = torch.device("cpu")
    assert 0 < floor_seconds(once, device, torch.float32) < floor_seconds(often, device, torch.float32)
