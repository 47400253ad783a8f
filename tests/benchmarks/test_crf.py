"""The CRF benchmark: summaries by hand, and all of it once."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmarks import crf
from tests.support import Command


def test_agreement_counts_pixels() -> None:
    ours = np.array([[[0.97, 0.6, 0.1, 0.5]], [[0.03, 0.4, 0.9, 0.5]]], np.float32)
    theirs = np.array([[[0.94, 0.6, 0.1, 0.4]], [[0.06, 0.4, 0.9, 0.6]]], np.float32)
    found = crf.agreement(ours, theirs)
    assert found["labels"] == 0.75 and found["masks"] == 0.75 and found["max_dq"] == pytest.approx(0.1)
    assert crf.mask(ours).tolist() == [[0, 255, 255, 255]]


def test_summary_takes_medians_of_times_and_the_worst_agreement() -> None:
    first = {"ours": 0.1, "theirs": 0.4, "labels": 1.0, "masks": 0.9, "max_dq": 1e-5}
    other = {"ours": 0.3, "theirs": 0.6, "labels": 0.99, "masks": 1.0, "max_dq": 1e-3}
    found = crf.summary("numba", 3, [first, other])
    assert found["ours_ms"] == pytest.approx(200) and found["theirs_ms"] == pytest.approx(500)
    assert found["ratio_median"] == pytest.approx(3) and found["ratio_min"] == pytest.approx(2)
    assert (found["labels_agreement"], found["masks_agreement"], found["max_dq"]) == (0.99, 0.9, 1e-3)


def test_maps_are_probabilities_with_the_background_first() -> None:
    probs = crf.cam_probs(4, (30, 50))
    assert probs.shape == (4, 30, 50) and probs.dtype == np.float32 and 0 <= probs.min() <= probs.max() <= 1
    assert np.allclose(probs[0], 1 - probs[1:].max(axis=0))


def test_an_unknown_backend_is_refused(command: Command) -> None:
    ended = command("benchmarks.crf", "--backends", "pydensecrf")
    assert ended.code == 2 and "--backends: invalid choice: 'pydensecrf'" in ended.err


@pytest.mark.slow
def test_rows(command: Command, tmp_path: Path, small_photos: Callable[[ModuleType], None]) -> None:
    small_photos(crf)
    options = ["--photos", 1, "--turns", 1, "--labels", 2, "--threads", 1, "--device", "cpu"]
    options += ["--backends", "numba", "torch", "--json", tmp_path / "r.json"]
    ended = command("benchmarks.crf", *options)
    assert ended.code == 0, ended.err
    single, other, *at_once = json.loads((tmp_path / "r.json").read_text())["rows"]
    for row in (single, other):
        assert row["K"] == 2 and row["labels_agreement"] > 0.9999 and row["max_dq"] < 1e-3
    assert [(row["backend"], row["at_once"], row["K"]) for row in at_once] == [
        ("numba", 1, 3),
        ("pydensecrf", 1, 3),
        ("torch", 1, 2),
    ]
    assert at_once[1]["against_one_core"] == 1
    assert at_once[2]["against_one_core"] == pytest.approx(at_once[2]["images_per_s"] * other["theirs_ms"] / 1e3)
