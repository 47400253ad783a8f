"""Maps that are no CAMs, and data sets without background, on their way to labels; against loops over pixels."""

import json
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from pipeline.files.cam_file import load_cams, read_maps, save_cams
from pipeline.stages.evaluate import EvalJob, run
from pipeline.steps.kinds import to_heat, to_probabilities
from pipeline.steps.maps import Cams
from pipeline.steps.masks import contest, labels_of
from pipeline.steps.scores import confusion_matrix
from tests.support import bilinear

GRID = (3, 4)


def logits(count: int, seed: int = 0) -> np.ndarray:
    return (3 * np.random.default_rng(seed).standard_normal((count, *GRID))).astype(np.float32)


def shares(count: int, seed: int = 0) -> np.ndarray:
    """Probabilities of `count` classes, with something left for the background."""
    weights = np.random.default_rng(seed).random((count + 1, *GRID))
    return (weights / weights.sum(axis=0))[:count].astype(np.float32)


def pixels(maps: np.ndarray) -> list[np.ndarray]:
    return list(maps.reshape(len(maps), -1).T)


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_logits_become_a_softmax_with_the_background_at_zero(count: int, background: bool) -> None:
    maps = logits(count)
    for own, found in zip(pixels(maps), pixels(to_probabilities(maps, "logit", background))):
        every = np.exp([0.0, *own] if background else own)
        assert np.allclose(found, every / every.sum(), atol=1e-6)


@pytest.mark.parametrize("background", [True, False])
def test_probabilities_leave_the_rest_to_the_background(background: bool) -> None:
    maps = shares(3)
    for own, found in zip(pixels(maps), pixels(to_probabilities(maps, "probability", background))):
        wanted = [1 - own.sum(), *own] if background else own / own.sum()
        assert np.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_without_classes_there_is_background_or_nothing(kind: str) -> None:
    nothing = np.zeros((0, *GRID), np.float32)
    assert np.array_equal(to_probabilities(nothing, kind, True), np.ones((1, *GRID)))
    assert to_probabilities(nothing, kind, False).shape == (0, *GRID)


def test_huge_logits_stay_finite() -> None:
    found = to_probabilities(np.full((2, 1, 1), -30000, np.float32), "logit", False)
    assert np.allclose(found, 0.5)
    assert to_probabilities(np.full((2, 1, 1), 30000, np.float32), "logit")[0, 0, 0] == 0


def test_cams_compete_as_ever() -> None:
    maps = shares(2)
    assert np.allclose(contest(maps)[0], 1 - maps.max(axis=0)) and np.array_equal(contest(maps)[1:], maps)
    assert contest(maps, has_background=False) is maps


def test_labels_with_and_without_background() -> None:
    scores = np.array([[[0.2, 0.7]], [[0.8, 0.3]]])
    assert labels_of(scores, np.array([4])).tolist() == [[5, 0]]
    assert labels_of(scores, np.array([4, 0]), has_background=False).tolist() == [[0, 4]]
    assert labels_of(np.zeros((0, 1, 2)), np.array([], int), has_background=False).tolist() == [[255, 255]]


# --- files ---------------------------------------------------------------------------------------


def write(path: Path, maps: np.ndarray, keys: list[int], record: dict, size: tuple[int, int] = (9, 10)) -> None:
    save_cams(path, Cams(np.array(keys, np.int64), maps, maps, size), record)


def test_a_file_says_what_its_maps_are(tmp_path: Path) -> None:
    maps = logits(2)
    write(tmp_path / "a.npz", maps, [3, 1], {"kind": "logit"})
    stored = read_maps(tmp_path / "a.npz", "attn_highres", 5)
    assert stored.kind == "logit" and np.allclose(stored.maps, maps, atol=1e-2)
    _, heat = load_cams(tmp_path / "a.npz", "highres", 5)
    assert heat.shape == (2, 9, 10) and heat.min() > 0 and heat.max() < 1


@pytest.mark.parametrize("record", [{}, {"kind": "cam"}, {"kind": "probability"}])
def test_only_logits_may_leave_the_range(record: dict, tmp_path: Path) -> None:
    write(tmp_path / "a.npz", logits(2), [3, 1], record)
    with pytest.raises(UserError, match="where 0 to 1 was expected"):
        read_maps(tmp_path / "a.npz", "attn_highres", 5)


@pytest.mark.parametrize("kind", ["heat", 7, None, ["logit"]])
def test_unknown_kinds_are_refused(kind: object, tmp_path: Path) -> None:
    write(tmp_path / "a.npz", shares(2), [3, 1], {"kind": kind})
    with pytest.raises(UserError, match="maps of kind"):
        read_maps(tmp_path / "a.npz", "attn_highres", 5)


# --- scores --------------------------------------------------------------------------------------


def naive_labels(maps: np.ndarray, keys: list[int], kind: str, background: bool, size: tuple[int, int]) -> np.ndarray:
    """Pixel by pixel: interpolated, then the best of the classes and, where there is one, the background."""
    rounded = maps if kind == "score" else maps.astype(np.float16)
    full = bilinear(rounded.astype(float).transpose(1, 2, 0), size)
    labels = np.zeros(size, np.uint8)
    for y in range(size[0]):
        for x in range(size[1]):
            own = full[y, x]
            rest = {"logit": 0.0, "score": 0.0, "probability": 1 - own.sum(), "cam": 1 - own.max()}[kind]
            best = int(own.argmax())
            if background and rest > own[best]:
                continue
            labels[y, x] = keys[best] + int(background)
    return labels


@pytest.mark.parametrize(("kind", "background"), [("logit", True), ("logit", False), ("score", True),
                                                  ("score", False), ("probability", True),
                                                  ("probability", False), ("cam", False)])  # fmt: skip
def test_scores_of_files_are_those_of_naive_labels(kind: str, background: bool, tmp_path: Path) -> None:
    from PIL import Image

    close = 1e-3 * logits(2) + 0.25  # differences that half precision would not keep
    maps, keys, size = {"logit": logits(2), "score": close}.get(kind, shares(2)), [3, 1], (9, 10)
    write(tmp_path / "a.npz", maps, keys, {"kind": kind}, size)
    labels = 5 + int(background)
    truth = np.random.default_rng(1).choice(np.array([*range(labels), 255], np.uint8), size)
    Image.fromarray(truth).save(tmp_path / "a.png")
    job = EvalJob(tmp_path, tmp_path, "attn_highres", labels, has_background=background)
    totals = job.empty_totals()
    outcomes = list(run(job, ["a"], totals, 1))
    assert [outcome.status for outcome in outcomes] == ["made"]
    wanted = confusion_matrix(truth, naive_labels(maps, keys, kind, background, size), labels)
    assert np.array_equal(totals.confusions[0], wanted)


def test_pictures_show_logits_as_shares() -> None:
    assert np.array_equal(to_heat(shares(2), "probability"), shares(2))
    heat = to_heat(logits(2), "logit")
    assert np.allclose(heat, to_probabilities(logits(2), "logit")[1:])


@pytest.mark.parametrize("background", [True, False])
def test_scores_are_made_sharp_for_the_crf_alone(background: bool) -> None:
    """0.5 against 0 wins with 0.99; the labels are those of the scores as they are."""
    maps = np.array([[[0.5, -0.7]], [[0.1, -0.2]]], np.float32)
    sharp = contest(maps, "score", background, sharp=True)
    every = np.exp(10 * (np.concatenate([np.zeros_like(maps[:1]), maps]) if background else maps))
    assert np.allclose(sharp, every / every.sum(axis=0), atol=1e-6)
    flat = contest(maps, "score", background)
    assert flat.max() < 0.65 and np.array_equal(flat.argmax(axis=0), sharp.argmax(axis=0))
    assert np.array_equal(to_heat(maps, "score"), contest(maps, "score", sharp=True)[1:])
    assert np.array_equal(contest(shares(2), sharp=True), contest(shares(2)))


def test_records_of_clip_es_do_not_change_with_methods_it_is_not(tmp_path: Path) -> None:
    """A file without the word is a CAM file: those of earlier runs and of other programs."""
    write(tmp_path / "a.npz", shares(2), [3, 1], json.loads('{"method": "clip-es"}'))
    assert read_maps(tmp_path / "a.npz", "highres", 5).kind == "cam"
