"""Another network's patches: whom they look at, by loops; CLIP's values on its grid; a network that is only a sum."""

import copy
from types import SimpleNamespace

import torch
from torch.nn import functional as F

from clip.image import MEAN, STD
from clip.load import Clip
from clip.vision import project_alone
from pipeline.steps import other_network as other
from pipeline.steps.dense_attention import run_blocks


def test_who_is_alike_by_loops() -> None:
    features = F.normalize(torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    found = other.alike(features)
    for image in range(2):
        similar = [[float(a @ b) for b in features[image]] for a in features[image]]
        mean = sum(map(sum, similar)) / 49
        for row in range(7):
            scores = [3 * (value - 1.2 * mean) for value in similar[row]]
            kept = [torch.tensor(score).exp() if score >= 0 or i == row else 0.0 for i, score in enumerate(scores)]
            assert torch.allclose(found[image, row], torch.tensor(kept) / sum(kept), atol=1e-5)
    same = other.alike(F.normalize(torch.ones(1, 4, 3), dim=-1))
    assert torch.allclose(same, torch.eye(4)[None])  # all alike, so that none is above the mean: each keeps itself


def test_values_on_a_grid_of_another_network(tiny_clip: Clip) -> None:
    """With an attention that looks at itself alone it is MaskCLIP's value, resized before the projection."""
    images = torch.randn(1, 3, 24, 32, generator=torch.Generator().manual_seed(1))
    tokens = run_blocks(tiny_clip.visual, images, "bicubic")
    block, layer = tiny_clip.visual.transformer.resblocks[-1], tiny_clip.visual.transformer.resblocks[-1].attn
    same = other.proxy_output(tiny_clip.visual, tokens, torch.eye(12)[None], (3, 4))
    assert torch.allclose(same, project_alone(block, tokens.last_input, "value")[:, 1:], atol=1e-5)
    attention = torch.rand(1, 30, 30, generator=torch.Generator().manual_seed(2)).softmax(dim=-1)
    found = other.proxy_output(tiny_clip.visual, tokens, attention, (5, 6))
    width = layer.embed_dim
    values = F.linear(block.ln_1(tokens.last_input), layer.in_proj_weight[-width:], layer.in_proj_bias[-width:])[0, 1:]
    resized = F.interpolate(values.T.reshape(1, width, 3, 4), size=(5, 6), mode="bilinear")[0].flatten(1).T
    assert torch.allclose(found[0], layer.out_proj(attention[0] @ resized), atol=1e-5)


def test_pixels_reach_the_network_as_it_was_trained() -> None:
    """White has ImageNet's value for white, at the network's own size of patches; what precedes the patches goes."""
    seen = []

    def network(pixel_values: torch.Tensor) -> SimpleNamespace:
        seen.append(pixel_values)
        means = F.avg_pool2d(pixel_values, 4).flatten(2).transpose(1, 2)
        return SimpleNamespace(last_hidden_state=torch.cat([torch.zeros(1, 3, 3), means], dim=1))

    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    white = (torch.ones(1, 3, 16, 24) - mean) / std
    found = other.PatchNetwork(network, 4, 3, False).features(white, (2, 3))
    assert seen[0].shape == (1, 3, 8, 12) and found.shape == (1, 6, 3)
    wanted = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(seen[0][0, :, 3, 3], wanted, atol=1e-5)
    assert torch.allclose(found[0, 0], F.normalize(wanted, dim=0), atol=1e-5)


def test_no_step_leaves_the_device(tiny_clip: Clip) -> None:
    """On torch's meta device, which has no numbers."""
    visual = copy.deepcopy(tiny_clip.visual).to("meta")

    def network(pixel_values: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=pixel_values.flatten(2).transpose(1, 2))

    images = torch.zeros(2, 3, 24, 32, device="meta")
    features = other.PatchNetwork(network, 1, 0, False).features(images, (5, 6))
    found = other.proxy_output(visual, run_blocks(visual, images, "bicubic"), other.alike(features), (5, 6))
    assert found.device.type == "meta" and found.shape == (2, 30, 64)


def test_both_affinities_have_rows_of_one() -> None:
    generator = torch.Generator().manual_seed(3)
    one, two = torch.rand(2, 5, 5, generator=generator), torch.rand(2, 5, 5, generator=generator)
    found = other.both(one, two)
    assert torch.allclose(found.sum(dim=-1), torch.ones(2, 5)) and not other.both(one, torch.zeros(2, 5, 5)).any()
    assert torch.allclose(found[1, 2, 3] / found[1, 2, 4], (one * two)[1, 2, 3] / (one * two)[1, 2, 4])
