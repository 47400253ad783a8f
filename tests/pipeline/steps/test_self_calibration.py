"""SC-CLIP's and SFP's repair and gathering where it can be said in another way."""

import pytest
import torch

from clip.load import Clip
from pipeline.steps import dense_attention as dense
from pipeline.steps import self_calibration as calibration
from tests.support import clip_from, tiny_model

GRID = (4, 5)


@pytest.fixture(scope="module")
def deep() -> Clip:
    return clip_from(tiny_model(layers=12).state_dict())


@pytest.fixture(scope="module")
def tokens(deep: Clip) -> dense.Tokens:
    images = torch.randn(2, 3, GRID[0] * 8, GRID[1] * 8, generator=torch.Generator().manual_seed(1))
    return dense.run_blocks(deep.visual, images, "bicubic")


def test_with_each_patch_alone_it_is_two_values(
    deep: Clip, tokens: dense.Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is similar but a patch to itself, and no class token: o(v(last)) + o(v(sum)), each v behind ln_1."""
    monkeypatch.setattr(calibration, "SIMILAR", 1 - 1e-5)
    monkeypatch.setattr(calibration, "SHARPNESS", 1e7)
    monkeypatch.setattr(calibration, "CLASS_SHARE", 0.0)
    nothing = torch.zeros(2, 20, dtype=torch.bool)
    found = calibration.calibrated_output(deep.visual, tokens, nothing, ())
    summed = sum(tokens.block(number) for number in range(4, 11))
    block, wanted = deep.visual.transformer.resblocks[-1], torch.zeros(())
    for patches in (tokens.last_input[:, 1:], summed[:, 1:]):  # type: ignore[index]
        values = block.ln_1(patches) @ block.attn.in_proj_weight[-64:].T + block.attn.in_proj_bias[-64:]
        wanted = wanted + block.attn.out_proj(values)
    assert torch.allclose(found, wanted, atol=1e-4)


def test_sfp_takes_at_most_ten(deep: Clip, tokens: dense.Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the class token looks at most, of those that look at themselves less."""
    block, number = deep.visual.transformer.resblocks[10], 11
    _, attention = dense.run_block(block, tokens.block(number - 1), need_attention=True)
    assert attention is not None
    wrong = calibration.outliers_by_attention(deep.visual, tokens)
    monkeypatch.setattr(calibration, "MOST_OUTLIERS", 2)
    few = calibration.outliers_by_attention(deep.visual, tokens)
    for image in range(2):
        seen = {place: float(attention[image, 0, place + 1]) for place in range(20)}
        more = {place: value for place, value in seen.items() if value > attention[image, place + 1, place + 1]}
        order = sorted(more, key=lambda place: -more[place])
        assert order and set(wrong[image].nonzero()[:, 0].tolist()) == set(order[:10])
        assert set(few[image].nonzero()[:, 0].tolist()) == set(order[:2])
