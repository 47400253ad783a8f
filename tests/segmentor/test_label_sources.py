"""Labels of hidden pixels: who finds them when, against a loop over the pixels."""

import numpy as np
import pytest
import torch
from torch import Tensor

from segmentor.maskclip_plus import Finder, fill_hidden, masks, network_labels
from segmentor.networks import enlarged
from segmentor.samples import Batch
from segmentor.settings import Teaching
from tests.segmentor.small import small_network

HIDDEN, IGNORE = 254, 255


def batch(seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.choice([0, 1, HIDDEN, IGNORE], (2, 6, 7)))
    return Batch(torch.from_numpy(rng.normal(size=(2, 3, 6, 7))).float(), labels)


def constant(label: int) -> Finder:
    return lambda images: torch.full((len(images), *images.shape[-2:]), label)


def teacher(images: Tensor) -> Tensor:
    """Label 2 where the first channel is positive, else not sure."""
    return torch.where(images[:, 0] > 0, 2, IGNORE)


def test_labels_that_are_known_stay_and_hidden_ones_are_filled() -> None:
    """Pixel by pixel: seen labels, the background and 255 (padding) are kept, whatever the teacher says there."""
    given = batch()
    found = fill_hidden(Teaching(hidden=(2,), teacher="maskclip", guided=(1, 9)), {"teacher": teacher})(given, 0)
    kinds = set()
    for place in np.ndindex(given.labels.shape):
        image, row, column = place
        label = int(given.labels[place])
        if label == HIDDEN:
            label = 2 if given.images[image, 0, row, column] > 0 else IGNORE
        assert int(found[place]) == label
        kinds.add((int(given.labels[place]), label))
    assert kinds == {(0, 0), (1, 1), (IGNORE, IGNORE), (HIDDEN, 2), (HIDDEN, IGNORE)}


@pytest.mark.parametrize(
    ("guided", "own_from", "wanted"),
    [
        ((1, 4), 5, "tttt nnnn"),
        ((2, 3), 6, "-tt-- nnn"),
        ((1, 8), 0, "tttttttt"),
        ((3, 3), 0, "--t-----"),
        ((1, 1), 2, "t nnnnnnn"),
    ],
)
def test_who_labels_by_iteration(guided: tuple[int, int], own_from: int, wanted: str) -> None:
    """Iterations are counted from 1, both ends belong to the window; the loop counts them from 0."""
    plan = Teaching(hidden=(2, 3), teacher="maskclip", guided=guided, own_from=own_from)
    source, given = fill_hidden(plan, {"teacher": constant(2), "network": constant(3)}), batch()
    for iteration, who in enumerate(wanted.replace(" ", "")):
        found = source(given, iteration)[given.labels == HIDDEN]
        assert set(found.tolist()) == {{"t": 2, "n": 3, "-": IGNORE}[who]}, iteration


def test_hidden_labels_without_anybody_are_not_trained_on() -> None:
    given = batch()
    found = masks(given, 0)
    assert (found[given.labels == HIDDEN] == IGNORE).all()
    assert found[given.labels != HIDDEN].equal(given.labels[given.labels != HIDDEN])


def test_network_labels_are_the_best_of_the_unlabelled_ones() -> None:
    network, images = small_network().eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():  # so that every label is the best one somewhere
        network.head.bias.sub_(network(images).mean((0, 2, 3)))
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = network_labels(network, (0, 2))(images)
    assert network.training and all(value.equal(before[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        scores = enlarged(network.eval()(images), images)
    assert scores.argmax(1).unique().tolist() == [0, 1, 2]  # where label 1 is best another one is taken
    assert found.equal(torch.where(scores[:, 2] > scores[:, 0], 2, 0)) and found.dtype == torch.int64
