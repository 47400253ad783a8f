"""Learned prompts: regions against naive rules, gradients against differences, steps against the reference's."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.parity.parts import Place
from benchmarks.parity.zsseg import prompts as parity
from clip.image import MEAN, STD
from clip.load import Clip
from clip.text import encode_prompts
from dataset.mask_png import write_mask
from tests.support import SHARED, photo
from training.pairs import Pair
from zsseg.training import prompt_regions as regions
from zsseg.training.prompt_settings import PromptSettings
from zsseg.training.prompts import PromptLearner, learner, objective

NAMES = (("cat",), ("dog", "puppy"), ("sky",))


def settings(**more: object) -> PromptSettings:
    return PromptSettings("voc20", NAMES, 5, "", "", **{"crop": (24, 16), "batch": 3, **more})  # type: ignore[arg-type]


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    """Three photos; label 0 is the background, 255 not known; the second mask has one pixel of label 3."""
    masks = [np.zeros((20, 30), np.uint8) for _ in range(3)]
    masks[0][2:9, 3:12], masks[0][10:20, 20:30], masks[0][:, 0] = 1, 2, 255
    masks[1][5, 6] = 3
    masks[2][:] = 1
    found = []
    for index, mask in enumerate(masks):
        Image.fromarray(photo((20, 30), index)).save(tmp_path / f"{index}.png")
        write_mask(tmp_path / f"m{index}.png", mask)
        found.append(Pair(str(index), tmp_path / f"{index}.png", tmp_path / f"m{index}.png"))
    return found


def test_regions_are_the_labels_of_each_mask(pairs: list[Pair], tmp_path: Path) -> None:
    damaged = Pair("9", pairs[0].image, tmp_path / "gone.png")
    found, problems = regions.regions_of([*pairs, damaged], 4, [1, 3])
    assert [(region.pair.id, region.label) for region in found] == [("0", 1), ("1", 3), ("2", 1)]
    assert len(problems) == 1 and problems[0][0] == "9" and "gone.png" in problems[0][1]


def test_balancing_draws_from_large_classes_and_keeps_small_ones() -> None:
    labels = [7] * 5 + [2] * 3 + [7] * 4
    chosen = regions.balanced(labels, 4)
    assert Counter(labels[index] for index in chosen) == {7: 4, 2: 3}
    assert [index for index in chosen if labels[index] == 2] == [5, 6, 7] and labels[chosen[0]] == 7
    rng = np.random.default_rng(0)  # one generator for all classes
    first, second = rng.integers(0, 9, 4), rng.integers(0, 6, 4)
    chosen = regions.balanced([7] * 9 + [2] * 6, 4)
    assert chosen == [*first, *(second + 9)]


@pytest.mark.parametrize(
    ("rows", "columns", "box"),
    [
        (slice(2, 9), slice(3, 12), (3, 2, 9, 7)),
        (slice(10, 20), slice(20, 30), (20, 10, 9, 9)),  # the last row and column are lost, as published
        (slice(19, 20), slice(29, 30), (29, 19, 1, 1)),
    ],
)
def test_boxes(rows: slice, columns: slice, box: tuple[int, ...]) -> None:
    inside = np.zeros((20, 30), bool)
    inside[rows, columns] = True
    assert regions.box_of(inside) == box


@pytest.mark.parametrize(("height", "width"), [(50, 40), (3, 200), (200, 3), (1, 1)])
def test_random_boxes_lie_inside_and_have_the_published_sizes(height: int, width: int) -> None:
    rng, shares = np.random.default_rng(0), []
    for _ in range(200):
        x, y, wide, high = regions.random_box(height, width, rng)
        assert x >= 0 and y >= 0 and wide >= 1 and high >= 1 and x + wide <= width and y + high <= height
        shares.append(wide * high / (height * width))
        if (height, width) == (50, 40):
            assert 0.7 < wide / high < 1.43
    if (height, width) == (50, 40):
        assert 0.07 < min(shares) < 0.15 and max(shares) > 0.8


def test_pixels_outside_a_region_get_clips_mean_after_normalising() -> None:
    images = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    inside = torch.rand(2, 4, 5) > 0.5
    found = regions.network_input(images, inside)
    for place in np.ndindex(2, 4, 5):
        for channel in range(3):
            value = (int(images[(*place, channel)]) / 255 - MEAN[channel]) / STD[channel]
            wanted = value if inside[place] else MEAN[channel]
            assert float(found[place[0], channel, place[1], place[2]]) == pytest.approx(wanted, abs=1e-5)


def test_a_sample_depends_on_its_position_alone_and_shows_its_class(pairs: list[Pair]) -> None:
    found, _ = regions.regions_of(pairs, 4, [1, 2, 3])
    samples = regions.RegionSamples(found, {1: 0, 2: 1, 3: 2}, 4, settings())
    first = [samples[position] for position in range(8)]
    for position in (5, 0, 7):
        again = samples[position]
        assert all(np.array_equal(one, other) for one, other in zip(first[position][:2], again[:2]))
    assert all(inside.any() and picture.shape == (24, 16, 3) for picture, inside, _, _ in first)
    assert Counter(label for _, _, label, _ in first[:4]) <= Counter([0, 1, 2, 0, 0, 1])
    pairs[0].image.write_bytes(b"no picture")
    broken = [samples[position] for position in range(8)]
    assert any("0.png" in reason for _, _, _, problems in broken for _, reason in problems)
    assert all(inside.any() for _, inside, _, _ in broken)  # another region in its place


def test_gradients_are_the_slopes_of_the_loss(tiny_clip: Clip) -> None:
    generator = torch.Generator().manual_seed(0)
    first = [torch.randn(count, 64, generator=generator) * 0.3 for count in (3, 2)]
    network = PromptLearner(tiny_clip, NAMES, *first)
    batch = regions.RegionBatch(torch.randn(4, 3, 33, 32, generator=generator), torch.tensor([0, 1, 2, 1]))
    objective(network, batch)["loss"].backward()
    for vectors in (network.prefix_prompt, network.suffix_prompt):
        direction = torch.randn(vectors.shape, generator=generator)
        losses = []
        for step in (1e-3, -1e-3):
            moved = [v.detach() + step * direction if v is vectors else v.detach() for v in network.parameters()]
            losses.append(float(objective(PromptLearner(tiny_clip, NAMES, *moved), batch)["loss"].detach()))
        assert vectors.grad is not None
        slope = float((vectors.grad * direction).sum())
        assert abs(slope) > 0.1 and (losses[0] - losses[1]) / 2e-3 == pytest.approx(slope, rel=2e-2)
    assert [name for name, _ in network.named_parameters()] == ["prefix_prompt", "suffix_prompt"]
    assert set(network.state_dict()) == {"prefix_prompt", "suffix_prompt"}  # the CLIP is no part of checkpoints


def test_a_learner_starts_from_small_random_vectors_of_the_seed(tiny_clip: Clip) -> None:
    one, same, other = (learner(tiny_clip, settings(prefix=40, seed=seed)) for seed in (0, 0, 1))
    assert one.prefix_prompt.shape == (40, 64) and 0.019 < float(one.prefix_prompt.detach().std()) < 0.021
    assert torch.equal(one.prefix_prompt, same.prefix_prompt) and not torch.equal(
        one.prefix_prompt, other.prefix_prompt
    )


def test_a_learner_can_start_from_words_with_clips_own_scale(tiny_clip: Clip) -> None:
    """It then says what the sentence of these words says: CLIP's logits."""
    network = learner(tiny_clip, settings(first_words="a photo of the", logit_scale=0.0))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    texts = encode_prompts(tiny_clip, [[f"a photo of the {name}." for name in group] for group in NAMES])
    features = torch.nn.functional.normalize(tiny_clip.model.encode_image(images), dim=1)
    assert network.prefix_prompt.shape == (4, 64)
    assert torch.allclose(network(images), tiny_clip.logit_scale * features @ texts.T, atol=1e-3)


@pytest.mark.parametrize("part", ["prompt crops", "prompt steps", "prompt test", "prompt sampling"])
def test_the_references_numbers(part: str, golden: Path, voc_mini: Path) -> None:
    place = Place(SHARED / "golden_zsseg", voc_mini, golden / "clip.pt")
    rows = list(parity.PARTS[part].rows(place))
    assert len(rows) >= 2 and all(row.agrees for row in rows), rows
