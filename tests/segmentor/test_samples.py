"""Which sample goes where: complete epochs, and the same for any number of processes."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from segmentor.augment import HIDDEN
from segmentor.samples import Samples, collate
from segmentor.settings import Views
from tests.segmentor.small import write_scenes
from training.batches import Batches
from training.pairs import Pair

VIEWS = Views(crop=32, scales=(0.8, 1.2))


def test_every_image_comes_once_an_epoch_in_another_order() -> None:
    pairs = [Pair(f"i{index}", Path("x"), Path("y")) for index in range(7)]
    samples = Samples(pairs, 3, VIEWS, seed=4)
    epochs = [[samples.pair(epoch * 7 + place).id for place in range(7)] for epoch in range(4)]
    assert all(sorted(epoch) == [pair.id for pair in pairs] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 2
    other = [Samples(pairs, 3, VIEWS, seed=5).pair(place).id for place in range(7)]
    assert other != epochs[0]


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
    every, broken = list(islice(Batches(samples, collate, 2), 5)), Batches(samples, collate, 2, readers=readers)
    first = list(islice(broken, 2))
    again = Batches(samples, collate, 2, readers=readers)
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
