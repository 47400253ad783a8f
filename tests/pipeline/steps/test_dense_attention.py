"""The last block with other attentions: against loops over heads and tokens, and what must make no difference."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from clip.load import Clip
from pipeline.steps import dense_attention as dense
from pipeline.steps.residual_attention import Mixing, first_labels, label_map, residual_output
from pipeline.steps.self_calibration import calibrated_output, outliers, repaired
from tests.support import clip_from, tiny_model

GRID = (3, 4)
PRODUCTS = {"qk": ["qk"], "qq": ["qq"], "kk": ["kk"], "qq+kk": ["qq", "kk"], "kk+window": ["kk"]}
STD = 2.0


@pytest.fixture(scope="module")
def deep() -> Clip:
    """Twelve image blocks of two heads."""
    return clip_from(tiny_model(layers=12, width=128).state_dict())


@pytest.fixture(scope="module")
def tokens(deep: Clip) -> dense.Tokens:
    images = torch.randn(2, 3, GRID[0] * 8 + 5, GRID[1] * 8 + 7, generator=torch.Generator().manual_seed(1))
    found = dense.run_blocks(deep.visual, images, "bicubic")
    assert found.grid == GRID  # what does not fill a patch is dropped
    return found


def by_loops(clip: Clip, entering: torch.Tensor, kind: str) -> torch.Tensor:
    """o(A v) of the patches of one image (N, D), one head and one query at a time."""
    block = clip.visual.transformer.resblocks[-1]
    layer, image = block.attn, block.ln_1(entering)
    weights, biases = layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)
    q, k, v = (image @ weight.T + bias for weight, bias in zip(weights, biases))
    rows, width = [], image.shape[1] // layer.num_heads
    for query in range(1, len(image)):
        heads = []
        for head in range(layer.num_heads):
            part, attention = slice(head * width, (head + 1) * width), torch.zeros(len(image))
            for left, right in PRODUCTS[kind]:
                sources = {"q": q, "k": k}
                scores = (sources[left][query, part] * sources[right][:, part]).sum(dim=1) / math.sqrt(width)
                for key in range(1, len(image)) if kind == "kk+window" else ():
                    (a, b), (c, d) = divmod(query - 1, GRID[1]), divmod(key - 1, GRID[1])
                    scores[key] += math.exp(-((a - c) ** 2 + (b - d) ** 2) / (2 * STD**2))
                attention = attention + scores.softmax(dim=0)
            heads.append(attention @ v[:, part])
        rows.append(layer.out_proj(torch.cat(heads)))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", PRODUCTS)
def test_attentions_by_loops(deep: Clip, tokens: dense.Tokens, kind: str) -> None:
    found = dense.output_by(deep.visual, tokens, kind, residual=False, std=STD)
    for image, entering in zip(found, tokens.last_input):
        assert torch.allclose(image, by_loops(deep, entering, kind), atol=1e-5)


def test_identity_is_maskclip_s_value_and_the_trained_block_is_clip_s(deep: Clip, tokens: dense.Tokens) -> None:
    from clip.vision import project_alone, run_block

    block = deep.visual.transformer.resblocks[-1]
    alone = dense.output_by(deep.visual, tokens, "identity")
    assert torch.allclose(alone, project_alone(block, tokens.last_input, "value")[:, 1:], atol=1e-5)
    whole = dense.output_by(deep.visual, tokens, "qk", residual=True)
    assert torch.allclose(whole, run_block(block, tokens.last_input)[0][:, 1:], atol=1e-5)


def test_the_window_s_limits(deep: Clip, tokens: dense.Tokens) -> None:
    """Infinitely wide, it adds the same everywhere between patches; infinitely narrow, to each patch's own score."""
    like = torch.zeros(())
    assert torch.allclose(dense.neighbourhood(GRID, 1e6, like)[1:, 1:], torch.ones(12, 12))
    assert torch.allclose(dense.neighbourhood(GRID, 1e-3, like)[1:, 1:], torch.eye(12))
    assert not dense.neighbourhood(GRID, 5.0, like)[0].any()


@pytest.mark.parametrize("kind", ["qq", "kk+window", "calibrated"])
def test_the_last_mlp_does_not_matter_without_the_residual(deep: Clip, tokens: dense.Tokens, kind: str) -> None:
    other = copy.deepcopy(deep.visual)
    torch.nn.init.normal_(other.transformer.resblocks[-1].mlp.c_fc.weight)
    wrong = outliers(tokens.last_input[:, 1:])
    found, again = (
        calibrated_output(visual, tokens, wrong) if kind == "calibrated" else dense.output_by(visual, tokens, kind)
        for visual in (deep.visual, other)
    )
    assert torch.equal(found, again)


def test_residual_attention_without_shares_is_the_base(deep: Clip, tokens: dense.Tokens) -> None:
    base = dense.output_by(deep.visual, tokens, "kk+window")
    assert torch.allclose(residual_output(deep.visual, tokens, Mixing((1, 0), (1, 0))), base, atol=1e-6)
    nothing = torch.zeros(2, 12, 12)
    assert torch.allclose(residual_output(deep.visual, tokens, Mixing((1, 0), (1, 0)), nothing), base, atol=1e-6)
    assert not torch.allclose(residual_output(deep.visual, tokens, Mixing((1, 0.5), (1, 0))), base, atol=1e-3)


def naive_label_map(labels: torch.Tensor, as_published: bool) -> torch.Tensor:
    height, width = labels.shape
    places = [(row, column) for row in range(height) for column in range(width)]
    longest, matrix = max(height, width) - 1, torch.zeros(len(places), len(places))
    for i, (a, b) in enumerate(places):
        for j, (c, d) in enumerate(places):
            apart = max(abs(a - c), abs(b - d))
            line = [(round(a + (c - a) * t / longest), round(b + (d - b) * t / longest)) for t in range(longest + 1)]
            line = line[: apart + 1] if as_published else line
            if labels[a, b] == labels[c, d]:
                leaves = any(labels[place] != labels[a, b] for place in line)
                matrix[i, j] = math.exp(-apart / longest) if leaves else 1
    taps = min(len(places), 31) - (1 - min(len(places), 31) % 2)
    kernel = [math.exp(-((tap - taps // 2) ** 2) / 50) for tap in range(taps)]
    smooth = torch.zeros_like(matrix)
    for j in range(len(places)):
        for tap, weight in enumerate(kernel):
            if 0 <= j + tap - taps // 2 < len(places):
                smooth[:, j] += weight / sum(kernel) * matrix[:, j + tap - taps // 2]
    smooth = smooth / (smooth.sum(dim=1, keepdim=True) + 1e-8)
    return smooth / smooth.max()


@pytest.mark.parametrize("as_published", [False, True])
def test_the_map_of_equal_labels_by_loops(as_published: bool) -> None:
    labels = torch.randint(0, 3, (5, 4), generator=torch.Generator().manual_seed(2))
    found = label_map(labels, as_published)
    assert torch.allclose(found, naive_label_map(labels, as_published), atol=3e-4 if as_published else 1e-5)
    assert label_map(torch.zeros(1, 1, dtype=torch.long)).tolist() == [[1.0]]


def test_first_labels_are_the_most_frequent_in_a_patch() -> None:
    """Two flat halves of one colour each: PAMR leaves them, so that each patch has its own word's class."""
    image = torch.zeros(1, 3, 8, 16)
    image[..., 8:] = 5
    text = F.one_hot(torch.tensor([0, 1, 2]), 4).float()
    features = torch.tensor([[[0.0, 9, 0, 0], [0, 0, 9, 0]]])
    labels = first_labels(features, text, [0, 1, 1], image, (1, 2), 8, 40.0, 0.5)
    assert labels.tolist() == [[[1, 1]]]
    assert first_labels(features, text, [0, 1, 2], image, (1, 2), 8, 40.0, 0.5).tolist() == [[[1, 2]]]
    assert first_labels(features, text, [0, 1, 2], image, (1, 2), 8, 0.0, 0.5).tolist() == [[[0, 0]]]


def test_outliers_by_their_factor_and_their_repair() -> None:
    patches = torch.randn(8 * 9, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    patches[20] += 30
    squared = torch.tensor([[float(((a - b) ** 2).sum()) for b in patches] for a in patches])
    reach = squared.sort(dim=1).values[:, 30]
    near = squared.argsort(dim=1)[:, 1:31]
    factor = reach * torch.stack([(1 / reach[places]).mean() for places in near])
    wrong = outliers(patches[None])[0]
    assert wrong[20] and torch.equal(wrong, factor > torch.quantile(factor, 0.95))
    fixed = repaired(patches[None], wrong[None], (8, 9))[0]
    row, column = divmod(20, 9)
    around = [
        patches[9 * r + c]
        for r in range(row - 1, row + 2)
        for c in range(column - 1, column + 2)
        if not wrong[9 * r + c]
    ]
    assert torch.allclose(fixed[20], torch.stack(around).mean(dim=0))
    assert torch.equal(fixed[~wrong], patches[~wrong]) and torch.allclose(
        repaired(fixed[None], wrong[None], (8, 9))[0], fixed
    )
    everything = torch.ones(72, dtype=torch.bool)
    assert torch.equal(repaired(patches[None], everything[None], (8, 9))[0], patches)


@pytest.mark.parametrize(
    ("blocks", "wanted", "of_four"),  # in place of 4, 5, ... 10, all read; in place of 6 to 9, where no more are read
    [
        (24, [4, 5, 6, 7, 8, 9, 10], [6, 7, 8, 9]),
        (12, [4, 5, 6, 7, 8, 9, 10], [6, 7, 8, 9]),
        (11, [4, 5, 6, 7, 8, 9, 10], [6, 7, 8, 9]),
        (10, [3, 4, 5, 6, 7, 8, 8], [6, 7, 8, 9]),
        (9, [3, 4, 5, 5, 6, 7, 8], [5, 5, 6, 7]),
        (8, [3, 3, 4, 5, 5, 6, 7], [4, 5, 5, 6]),
        (6, [2, 3, 3, 4, 4, 5, 5], [3, 4, 4, 5]),
        (5, [2, 2, 3, 3, 3, 4, 4], [3, 3, 3, 4]),
        (3, [1, 1, 2, 2, 2, 2, 2], [2, 2, 2, 2]),
    ],
)
def test_middle_blocks_by_a_table(blocks: int, wanted: list[int], of_four: list[int]) -> None:
    assert dense.middle_blocks(range(4, 11), blocks) == dict(zip(range(4, 11), wanted))
    assert dense.middle_blocks((6, 7, 8, 9), blocks) == dict(zip(range(6, 10), of_four))


def test_dino_s_positions_are_read_a_little_further_apart() -> None:
    from clip.vision import resize_positions

    learned = torch.randn(1 + 16, 2, generator=torch.Generator().manual_seed(4))
    assert torch.equal(resize_positions(learned, (2, 8), "bicubic-dino"), learned)  # as many cells: as they are
    found = resize_positions(learned, (5, 6), "bicubic-dino")
    square = learned[1:].view(4, 4, 2)

    def weight(x: float) -> float:  # cubic convolution, a = -0.75
        x = abs(x)
        return 1.25 * x**3 - 2.25 * x**2 + 1 if x <= 1 else -0.75 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    for row in range(5):
        for column in range(6):
            y, x = (row + 0.5) * 4 / 5.1 - 0.5, (column + 0.5) * 4 / 6.1 - 0.5
            value = torch.zeros(2)
            for a in range(math.floor(y) - 1, math.floor(y) + 3):
                for b in range(math.floor(x) - 1, math.floor(x) + 3):
                    value += weight(y - a) * weight(x - b) * square[min(max(a, 0), 3), min(max(b, 0), 3)]
            assert torch.allclose(found[1 + 6 * row + column], value, atol=1e-4)
