"""pipeline.crf.meanfield against filters in plain Python."""

import numba
import numpy as np
import pytest

from pipeline.crf.lattice import build
from pipeline.crf.meanfield import gaussian_filter, infer
from tests.naive_lattice import filtered, mean_field, softmax


def random_features(dims: int, count: int) -> np.ndarray:
    return np.random.default_rng(dims).random((dims, count), np.float32) * np.float32(3)


def random_log_probs(labels: int, count: int) -> np.ndarray:
    return np.log(np.random.default_rng(labels).random((labels, count), np.float32) + np.float32(1e-3))


@pytest.mark.parametrize("dims", [2, 5])
@pytest.mark.parametrize("count", [1, 30, 64])
def test_filter_of_ones_is_that_of_the_naive_lattice(dims: int, count: int) -> None:
    """Read from one iteration: where label 1 is certain, its message is the filter of ones times the weight."""
    features, doubt, compat = random_features(dims, count), -30.0, -20.0
    log_probs = np.zeros((2, count), np.float32)
    log_probs[0] = doubt
    q = infer(log_probs, [gaussian_filter(build(features))], [compat], 1).astype(np.float64)
    found = (doubt - np.log(q[0] / q[1])) / compat
    assert found == pytest.approx(filtered(features, np.ones(count)), abs=2e-6)


@pytest.mark.parametrize("labels", [1, 2, 3, 4, 6, 9, 10, 21])
def test_two_iterations_are_those_of_naive_filters(labels: int) -> None:
    kernels, compats = [random_features(2, 42), random_features(5, 42)], [3.0, 0.7]
    log_probs = random_log_probs(labels, 42)
    expected = mean_field(log_probs, kernels, compats, 2)
    filters = [gaussian_filter(build(features)) for features in kernels]
    assert infer(log_probs, filters, compats, 2) == pytest.approx(expected, abs=2e-5)


def test_no_iterations_give_the_normalised_probabilities() -> None:
    log_probs = random_log_probs(3, 2000)
    kernel = gaussian_filter(build(random_features(2, 2000)))
    assert infer(log_probs, [kernel], [3.0], 0) == pytest.approx(softmax(log_probs), abs=1e-6)


def test_the_order_of_labels_does_not_matter() -> None:
    log_probs, order = random_log_probs(5, 3000), [3, 0, 4, 2, 1]
    filters = [gaussian_filter(build(random_features(5, 3000)))]
    assert infer(log_probs[order], filters, [4.0], 5) == pytest.approx(
        infer(log_probs, filters, [4.0], 5)[order], abs=1e-4
    )


def test_numba_settings_of_others_are_left_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "SLP_VECTORIZE", 0)
    gaussian_filter(build(random_features(2, 8)))
    assert numba.config.SLP_VECTORIZE == 0
