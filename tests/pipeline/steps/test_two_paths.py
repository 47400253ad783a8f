"""The second path's maps: feature surgery, and ExCEL's patches, against loops over texts, tokens and heads."""

import pytest
import torch
from torch.nn import functional as F

from benchmarks import plain_dense as plain
from clip.load import Clip
from pipeline.steps import dense_attention as dense
from pipeline.steps.two_paths import gem_output, surgery_maps, surgery_output
from tests.support import clip_from, tiny_model


@pytest.fixture(scope="module")
def deep() -> Clip:
    return clip_from(tiny_model(layers=7, width=128).state_dict())


def test_excel_s_patches_by_loops(deep: Clip) -> None:
    """Five blocks; one attention, added up over the heads, gathers the values of every head."""
    image, state = torch.randn(3, 24, 32, generator=torch.Generator().manual_seed(0)), deep.model.state_dict()
    tokens = dense.run_blocks(deep.visual, image[None], "bicubic")
    entering = plain.entering_blocks(state, image)
    path = entering[2]
    for number in range(3, 8):
        parts = plain.heads(state, number, entering[number - 1])
        attention = torch.zeros(13, 13)
        for head in range(2):
            for part in parts:
                attention += (part[head] @ part[head].T / 8).softmax(dim=-1) / 3
        path = path + plain.gathered(state, number, attention, parts[2])
    assert torch.allclose(surgery_output(deep.visual, tokens)[0], path[1:], atol=1e-4)


@pytest.mark.parametrize(("layers", "first"), [(7, 2), (6, 4), (5, 4), (1, 1)])
def test_gem_s_path_begins_in_the_middle_of_a_short_tower(layers: int, first: int) -> None:
    """What enters the first of its blocks is all that it takes over: blocks before it count, their MLPs too."""
    clip = clip_from(tiny_model(layers=layers, width=128).state_dict())
    image = torch.randn(1, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    blocks = clip.visual.transformer.resblocks
    with torch.no_grad():
        for number in range(first - 1, layers):  # the blocks of the second path give nothing: it stays what it began as
            blocks[number].attn.out_proj.weight.zero_()
            blocks[number].attn.out_proj.bias.zero_()
    tokens = dense.run_blocks(clip.visual, image, "bicubic")
    entering = plain.entering_blocks(clip.model.state_dict(), image[0])
    assert torch.allclose(gem_output(clip.visual, tokens)[0], entering[first - 1][1:], atol=1e-4)


def test_feature_surgery_by_loops() -> None:
    """Products channel by channel, the texts' weights, what they have in common taken off, each map from 0 to 1."""
    generator = torch.Generator().manual_seed(1)
    features, of_image, texts = (
        F.normalize(torch.randn(*shape, generator=generator), dim=-1) for shape in ((2, 6, 8), (2, 8), (4, 8))
    )
    found = surgery_maps(features, of_image, texts, (2, 3))
    for image in range(2):
        weights = torch.stack([2 * of_image[image] @ text for text in texts]).softmax(dim=0)
        weights = weights / weights.mean()
        for index, own in enumerate(found[image].flatten(1)):
            values = []
            for patch in features[image]:
                products = [patch * text * weight for text, weight in zip(texts, weights)]
                values.append(float((products[index] - sum(products) / 4).sum()))
            wanted = torch.tensor(values)
            wanted = (wanted - wanted.min()) / (wanted.max() - wanted.min())
            assert torch.allclose(own, wanted, atol=1e-4)
