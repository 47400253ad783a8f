"""Affinity blocks: their loss by naive loops, and that a tower with them says what it said without."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from clip.load import load_clip
from clip.vision import vision_forward
from toyworld.training import affinity
from toyworld.training.captions import Vocabulary
from toyworld.training.export import openai_state_dict, write_weights
from toyworld.training.model import Architecture, ToyClip

TINY = Architecture(resolution=64, patch=16, width=64, layers=3, text_layers=1, embedding=32)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_nearness_is_a_gaussian_of_the_distance() -> None:
    near = affinity.nearness(2, 3)
    for one in range(6):
        for other in range(6):
            square = (one // 3 - other // 3) ** 2 + (one % 3 - other % 3) ** 2
            assert math.isclose(near[one, other].item(), math.exp(-square / 18), rel_tol=1e-4)


def test_loss_is_the_cross_entropy_against_agreement_nearby() -> None:
    transitions, labels, near = random(2, 4, 4).exp(), random(2, 4, 3, seed=1).softmax(-1), random(4, 4, seed=2).exp()
    rows = []
    for image in range(2):
        for i in range(4):
            wanted = [float(labels[image, i] @ labels[image, j] * near[i, j]) for j in range(4)]
            found = [float(transitions[image, i, j]) for j in range(4)]
            rows.append(-sum(w / sum(wanted) * math.log(f / sum(found)) for w, f in zip(wanted, found)))
    assert math.isclose(affinity.affinity_loss(transitions, labels, near).item(), sum(rows) / 8, rel_tol=1e-5)


def test_shares_of_a_patch_are_counts_of_its_pixels() -> None:
    labels = np.random.default_rng(0).integers(0, 9, (6, 9))
    found = affinity.shares(labels, (2, 3))
    for patch in range(6):
        pixels = labels[patch // 3 * 3 :, patch % 3 * 3 :][:3, :3]
        expected = [np.count_nonzero(pixels == label) / 9 for label in range(9)]
        assert np.allclose(found[patch], expected, atol=1e-6)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[float]]:
    """A tower, the same with affinity blocks, and the losses of their training."""
    folder, words, losses = tmp_path_factory.mktemp("weights"), Vocabulary(), []
    torch.manual_seed(0)
    model = ToyClip(TINY, len(words.token_ids))
    for name in ("plain.pt", "with.pt"):
        write_weights(folder / name, openai_state_dict(model, words))
    affinity.add_affinity_blocks(
        folder / "with.pt", lambda step, values: losses.append(values["transitions"]), 40, ((64, 64, 16),)
    )
    return folder / "plain.pt", folder / "with.pt", losses


def test_it_learns(files: tuple[Path, Path, list[float]]) -> None:
    assert np.mean(files[2][-5:]) < np.mean(files[2][:5])


def test_what_the_tower_says_stays_as_it_was_to_the_bit(files: tuple[Path, Path, list[float]]) -> None:
    plain, more = (load_clip(str(path)) for path in files[:2])
    images = random(2, 3, 48, 64)
    ours, theirs = vision_forward(more.visual, images), vision_forward(plain.visual, images)
    assert torch.equal(ours.last_output, theirs.last_output) and torch.equal(ours.last_input, theirs.last_input)
    assert len(ours.attention) == len(theirs.attention) + affinity.BLOCKS
    for one, other in zip(ours.attention[affinity.BLOCKS :], theirs.attention):
        assert torch.equal(one, other)


def test_the_blocks_in_the_file_attend_as_they_learned_to(files: tuple[Path, Path, list[float]]) -> None:
    """Nearby patches more than far ones, which a random block does not."""
    more = load_clip(str(files[1]))
    attention = vision_forward(more.visual, random(4, 3, 64, 64)).attention
    near = affinity.nearness(4, 4) > 0.8
    inside = [float(maps[:, near].mean() / maps[:, ~near].mean()) for maps in attention[: affinity.BLOCKS]]
    assert max(inside) > 1.02
