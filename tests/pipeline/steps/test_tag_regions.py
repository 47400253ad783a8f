"""TagCLIP's functions against naive loops over patches, and the cases in which they must not fail."""

import numpy as np
import pytest
import torch

from clip.load import Clip
from clip.templates import IMAGENET80, MASKCLIP85, fill_templates, knows_templates
from clip.text import encode_prompts
from clip.tokenizer import SimpleTokenizer
from clip.vision import embed_patches, run_block, vision_forward
from pipeline.methods.tagclip import TagSettings
from pipeline.steps import tag_regions
from tests.support import PATCH, bilinear


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def words(tiny_clip: Clip) -> torch.Tensor:
    return encode_prompts(tiny_clip, [["cat"], ["dog"], ["sky"]])


# --- the vision forward with a bias ---------------------------------------------------------------


def naive_attention(clip: Clip, tokens: torch.Tensor, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One head, one image, token by token: the mixed values before the output projection, and plain weights."""
    block = clip.visual.transformer.resblocks[0]
    projected = torch.nn.functional.linear(block.ln_1(tokens)[0], block.attn.in_proj_weight, block.attn.in_proj_bias)
    query, key, value = projected.double().numpy().reshape(len(projected), 3, -1).transpose(1, 0, 2)
    mixed, plain = np.zeros_like(value), np.zeros((len(value), len(value)))
    for row in range(len(value)):
        scores = np.array([query[row] @ key[column] for column in range(len(value))]) / query.shape[1] ** 0.5
        plain[row] = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        biased = scores + bias[row]
        weights = np.exp(biased - biased.max()) / np.exp(biased - biased.max()).sum()
        mixed[row] = sum(weight * one for weight, one in zip(weights, value))
    return mixed, plain


@pytest.mark.parametrize("need_attention", [False, True])
def test_a_bias_acts_on_the_mixing_and_not_on_the_attention_returned(tiny_clip: Clip, need_attention: bool) -> None:
    tokens = seeded(1, 7, 64) - 0.5
    bias = -3 * seeded(7, 7, seed=1)
    block = tiny_clip.visual.transformer.resblocks[0]
    mixed, plain = naive_attention(tiny_clip, tokens, bias.numpy())
    found, attention = run_block(block, tokens, need_attention=need_attention, attention_bias=bias)
    after = tokens + block.attn.out_proj(torch.from_numpy(mixed).float())
    assert torch.allclose(found, after + block.mlp(block.ln_2(after)), atol=1e-4)
    without, _ = run_block(block, tokens)
    assert not torch.allclose(found, without, atol=1e-2)
    if need_attention:
        assert np.allclose(attention[0].numpy(), plain, atol=1e-5)


def test_a_bias_for_every_image_of_a_batch_is_the_images_alone(tiny_clip: Clip) -> None:
    images, biases = seeded(2, 3, 16, 24), -5 * seeded(2, 1, 7, 7, seed=1)
    together = vision_forward(tiny_clip.visual, images, 0, attention_bias=biases)
    assert together.attention == ()
    for index in range(2):
        tokens, _ = embed_patches(tiny_clip.visual, images[index : index + 1])
        for block in tiny_clip.visual.transformer.resblocks:
            tokens, _ = run_block(block, tokens, attention_bias=biases[index, 0])
        assert torch.allclose(together.last_output[index], tokens[0], atol=1e-4)


# --- templates ------------------------------------------------------------------------------------


def test_the_templates_are_the_published_ones() -> None:
    assert len(IMAGENET80) == 80 and len(set(MASKCLIP85)) == 85
    assert IMAGENET80[0] == "a bad photo of a {}." and IMAGENET80[-1] == "a tattoo of the {}."
    assert MASKCLIP85[:80] == IMAGENET80 and MASKCLIP85[-1] == "this is one {} in the scene."
    assert all(template.count("{}") == 1 for template in MASKCLIP85)


def test_every_name_goes_into_every_template() -> None:
    found = fill_templates(["a {}.", "the {}!"], [["cat", "kitten"], ["dog"]])
    assert [sorted(group) for group in found] == [
        ["a cat.", "a kitten.", "the cat!", "the kitten!"],
        ["a dog.", "the dog!"],
    ]


def test_an_unknown_word_in_the_templates_is_noticed(tiny_clip: Clip) -> None:
    assert knows_templates(tiny_clip, MASKCLIP85)
    weight = tiny_clip.texts.tower(tiny_clip.device).token_embedding.weight
    (token,) = SimpleTokenizer().encode("tattoo")
    kept = weight[token].clone()
    try:
        weight[token] = 0
        assert not knows_templates(tiny_clip, MASKCLIP85) and knows_templates(tiny_clip, ["a {}."])
    finally:
        weight[token] = kept


# --- patches --------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_patch_is_judged_by_its_own_value_alone(tiny_clip: Clip, words: torch.Tensor) -> None:
    """The last block with exact identity attention, token by token; another patch's token changes nothing."""
    visual = tiny_clip.visual
    block = visual.transformer.resblocks[-1]
    tokens = seeded(1, 7, 64) - 0.5
    found = tag_regions.patch_probabilities(visual, tokens, words, tiny_clip.logit_scale)
    assert found.shape == (1, 6, 3)
    for patch in range(6):
        token = tokens[0, patch + 1]
        weight, bias = block.attn.in_proj_weight[128:], block.attn.in_proj_bias[128:]
        token = token + block.attn.out_proj(weight @ block.ln_1(token) + bias)
        token = token + block.mlp(block.ln_2(token))
        feature = visual.ln_post(token) @ visual.proj
        logits = tiny_clip.logit_scale * torch.stack([feature @ word / feature.norm() for word in words])
        assert torch.allclose(found[0, patch], torch.exp(logits) / torch.exp(logits).sum(), atol=1e-5)


@pytest.mark.parametrize(("count", "blocks", "votes"), [(12, (8, 9, 10), 4), (24, (20, 21, 22), 8), (4, (0, 1, 2), 1)])
def test_published_settings_scale_with_the_blocks(count: int, blocks: tuple[int, ...], votes: int) -> None:
    assert TagSettings().blocks_of(count) == blocks and TagSettings().votes_of(count) == votes


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shallow_models_have_blocks_to_average(count: int) -> None:
    blocks = TagSettings().blocks_of(count)
    assert blocks and all(0 <= block < count for block in blocks) and TagSettings().votes_of(count) == 1


@pytest.mark.parametrize(("votes", "blocks"), [(None, None), (1, (0,)), (3, (1, 4)), (4, (0, 1, 2, 3, 4))])
def test_affinity_is_a_mean_where_enough_blocks_vote(votes: int | None, blocks: tuple[int, ...] | None) -> None:
    settings = TagSettings(votes=votes, blocks=blocks)
    attention = seeded(5, 6, 6)
    found = tag_regions.voted_attention(attention, settings.votes_of(5), settings.blocks_of(5))
    maps = attention.double().numpy()
    zeros = 0
    for row in range(6):
        for column in range(6):
            agree = sum(maps[index, row, column] > maps[index].mean() for index in range(5))
            mean = np.mean([maps[index, row, column] for index in (blocks or (1, 2, 3))])
            wanted = mean if agree >= (2 if votes is None else votes) else 0
            zeros += wanted == 0
            assert found[row, column].item() == pytest.approx(wanted, abs=1e-6)
    assert 0 < zeros < 36


# --- crops of the likely classes ------------------------------------------------------------------


def test_candidates_are_measured_against_all_patches_and_classes() -> None:
    scores = torch.tensor([[0.1, 0.6, 0.5, 1.1], [0.3, 0.2, 0.59, 0.2]])
    assert tag_regions.candidates(scores, 0.5) == [3]  # (0.1 + 1.1) / 2 = 0.6 is not exceeded by 0.6
    assert tag_regions.candidates(scores, 0.48) == [1, 2, 3]
    assert tag_regions.candidates(torch.full((2, 3), 0.4), 0.5) == []


def naive_region(mask: np.ndarray, side: int) -> tuple[int, int, int, int, np.ndarray] | None:
    height, width = mask.shape
    inside = [(y, x) for y in range(height) for x in range(width) if mask[y, x]]
    if not inside:
        return None
    y0, x0 = min(y for y, _ in inside), min(x for _, x in inside)
    y1, x1 = min(max(y for y, _ in inside) + 1, height - 1), min(max(x for _, x in inside) + 1, width - 1)
    if y1 <= y0 or x1 <= x0:
        return None
    grid = np.zeros((side, side), bool)
    for y in range(side):
        for x in range(side):
            grid[y, x] = mask[y0 + y * (y1 - y0) // side, x0 + x * (x1 - x0) // side]
    return (y0, y1, x0, x1, grid) if grid.any() else None


@pytest.mark.parametrize("level", [0.3, 0.85, 0.95])
def test_regions_are_those_of_a_loop_over_patches(level: float) -> None:
    some, none = 0, 0
    for seed in range(60):
        heat = seeded(*(1 + seed % 5, 1 + seed % 7), seed=seed)
        found, wanted = tag_regions.region_of(heat, level, 4), naive_region(heat.numpy() > level, 4)
        if wanted is None:
            assert found is None
            none += 1
            continue
        some += 1
        assert (found.y0, found.y1, found.x0, found.x1) == wanted[:4]
        assert np.array_equal(found.inside.numpy(), wanted[4])
    assert some and none


def test_a_region_in_the_last_row_only_is_none() -> None:
    heat = torch.zeros(4, 5)
    heat[3, 1:3] = 1
    assert tag_regions.region_of(heat, 0.5, 4) is None
    heat[2, 1] = 1
    region = tag_regions.region_of(heat, 0.5, 4)
    assert (region.y0, region.y1, region.x0, region.x1) == (2, 3, 1, 3)


def test_a_crop_is_the_region_scaled_bilinearly() -> None:
    image = seeded(3, 4 * PATCH, 5 * PATCH)
    region = tag_regions.Region(1, 3, 2, 5, torch.ones(4, 4, dtype=torch.bool))
    found = tag_regions.crop(image, region, PATCH)
    pixels = image[:, PATCH : 3 * PATCH, 2 * PATCH : 5 * PATCH].permute(1, 2, 0).numpy()
    assert np.allclose(found.permute(1, 2, 0).numpy(), bilinear(pixels, (4 * PATCH, 4 * PATCH)), atol=1e-5)


def test_the_class_token_sees_itself_and_the_region() -> None:
    inside = torch.tensor([[[True, False], [False, True]], [[False, True], [True, True]]])
    bias = tag_regions.region_bias(inside)
    assert bias.shape == (2, 1, 5, 5) and not bias[:, :, 1:].any()
    assert bias[:, 0, 0].tolist() == [[0, 0, -1000, -1000, 0], [0, -1000, 0, 0, 0]]


@torch.no_grad()
def test_crops_are_judged_by_open_clips_own_feature_where_nothing_is_hidden(
    tiny_clip: Clip, words: torch.Tensor
) -> None:
    crops, inside = seeded(2, 3, 32, 32), torch.ones(2, 4, 4, dtype=torch.bool)
    found = tag_regions.crop_probabilities(tiny_clip.visual, crops, inside, words, tiny_clip.logit_scale)
    features = torch.nn.functional.normalize(tiny_clip.model.encode_image(crops), dim=-1)
    assert torch.allclose(found, (tiny_clip.logit_scale * features @ words.T).softmax(-1), atol=1e-5)
    inside[0, :, 2:] = False
    hidden = tag_regions.crop_probabilities(tiny_clip.visual, crops, inside, words, tiny_clip.logit_scale)
    assert not torch.allclose(hidden[0], found[0], atol=1e-3) and torch.allclose(hidden[1], found[1], atol=1e-5)


# --- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "share", "labels"),
    [
        ([0.1, 0.9, 0.5, 0.51], 0.5, (1, 3)),
        ([0.1, 0.9, 0.5, 0.51], 0.1, (1, 2, 3)),
        ([0.1, 0.9, 0.5, 0.51], 1.0, (1,)),
        ([0.2, 0.2, 0.2], 0.5, (0,)),
        ([0.7], 0.5, (0,)),
        ([0.0, 0.0, 1e-9], 0.5, (2,)),
    ],
)
def test_labels(scores: list[float], share: float, labels: tuple[int, ...]) -> None:
    assert tag_regions.choose_labels(np.array(scores, np.float32), share) == labels
