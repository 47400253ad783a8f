"""Which sample goes where: complete epochs, and the same for any number of processes."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from segmentor.augment import HIDDEN
from segmentor.samples import Batches, Pair, Samples, collate, training_pairs
from segmentor.settings import Views
from tests.segmentor.small import write_scenes

VIEWS = Views(crop=32, scales=(0.8, 1.2))


def test_every_image_comes_once_an_epoch_in_another_order() -> None:
    pairs = [Pair(f"i{index}", Path("x"), Path("y")) for index in range(7)]
    samples = Samples(pairs, 3, VIEWS, seed=4)
    epochs = [[samples.pair(epoch * 7 + place).id for place in range(7)] for epoch in range(4)]
    assert all(sorted(epoch) == [pair.id for pair in pairs] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 2
    other = [Samples(pairs, 3, VIEWS, seed=5).pair(place).id for place in range(7)]
    assert other != epochs[0]


@pytest.mark.parametrize(("ranks", "batch"), [(1, 12), (2, 6), (2, 2), (3, 2), (1, 3)])
def test_a_step_has_the_same_positions_however_it_is_dealt(ranks: int, batch: int) -> None:
    samples, parts = Samples([], 3, VIEWS, seed=4), 12 // ranks // batch
    for step in range(3):
        dealt = [
            Batches(samples, batch, rank, ranks).positions(step * parts + part)
            for rank in range(ranks)
            for part in range(parts)
        ]
        assert all(len(positions) == batch for positions in dealt)
        assert sorted(place for positions in dealt for place in positions) == list(range(step * 12, (step + 1) * 12))


def test_samples_depend_on_seed_and_position_alone(tmp_path: Path) -> None:
    pairs = write_scenes(tmp_path, 3)
    one, two = (Samples(pairs, 3, VIEWS, seed=1) for _ in range(2))
    later = [one[position] for position in (5, 4, 3)][::-1]
    for ours, theirs in zip(later, [two[position] for position in (3, 4, 5)]):
        assert np.array_equal(ours[0], theirs[0]) and np.array_equal(ours[1], theirs[1])
    assert not np.array_equal(one[3][0], Samples(pairs, 3, VIEWS, seed=2)[3][0])
    assert not np.array_equal(one[0][0], one[3][0])


@pytest.mark.parametrize("readers", [0, 2])
def test_batches_go_on_where_they_were(tmp_path: Path, readers: int) -> None:
    """What readers have read ahead does not count."""
    samples = Samples(write_scenes(tmp_path, 4), 3, VIEWS, seed=1)
    every, broken = list(islice(Batches(samples, 2), 5)), Batches(samples, 2, readers=readers)
    first = list(islice(broken, 2))
    again = Batches(samples, 2, readers=readers)
    again.load_state_dict(broken.state_dict())
    for one, two in zip(every, [*first, *islice(again, 3)], strict=True):
        assert one.images.equal(two.images) and one.labels.equal(two.labels)


def test_a_bad_file_costs_its_own_place_only(tmp_path: Path) -> None:
    pairs = write_scenes(tmp_path, 3)
    pairs[1].image.write_bytes(pairs[1].image.read_bytes()[:200])
    samples = Samples(pairs, 3, VIEWS, seed=1)
    batch = collate([samples[position] for position in range(3)])
    place = next(position for position in range(3) if samples.pair(position).id == "s1")
    assert (batch.labels[place] == 255).all() and not batch.images[place].any()
    assert [image_id for image_id, _ in batch.problems] == ["s1"] and "s1.png" in batch.problems[0][1]
    assert all((batch.labels[other] != 255).any() for other in range(3) if other != place)


def test_hidden_labels_are_marked_before_the_view(tmp_path: Path) -> None:
    """Every other label, and 255 where the crop is padded, stay; an image without a mask is hidden, its padding not."""
    pairs, side = write_scenes(tmp_path, 2), 80  # larger than the scenes
    views = Views(crop=side, scales=(1.0, 1.0), flip=False, colours=False)
    for position in range(2):
        plain = Samples(pairs, 3, views, seed=1)[position][1]
        hidden = Samples(pairs, 3, views, seed=1, hidden=(1, 2))[position][1]
        assert set(np.unique(plain)) == {0, 1, 2, 255} and hidden.dtype == np.int64
        assert np.array_equal(hidden, np.where((plain == 1) | (plain == 2), HIDDEN, plain))
        bare = Samples([replace(pair, mask=None) for pair in pairs], 3, views, seed=1)[position][1]
        inside = np.zeros((side, side), bool)
        inside[:64, :72] = True
        assert np.array_equal(bare, np.where(inside, HIDDEN, 255))


def test_what_does_not_fit_is_found_before_the_run(tmp_path: Path) -> None:
    pairs = write_scenes(tmp_path, 4)
    pairs[1].mask.unlink()
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(pairs[2].mask)
    images, masks, ids = tmp_path / "images", tmp_path / "masks", [f"s{index}" for index in range(5)]
    good, failures = training_pairs(ids, images, masks, 3)
    assert [pair.id for pair in good] == ["s0", "s3"] and [image_id for image_id, _ in failures] == ["s1", "s2", "s4"]
    assert "no such mask" in failures[0][1] and "size (5, 5)" in failures[1][1]
    with pytest.raises(UserError, match=r"s0\.png: holds label 2, but there are labels 0 to 1"):
        training_pairs(ids, images, masks, 2)
    with pytest.raises(UserError, match=r"nothing to train on: .*s1\.png"):
        training_pairs(ids[1:3], images, masks, 3)
    pairs[1].image.write_bytes(b"broken")
    good, failures = training_pairs(ids[:4], images, None, 3)  # without masks
    assert [pair.id for pair in good] == ["s0", "s2", "s3"] and "s1.png" in failures[0][1]
