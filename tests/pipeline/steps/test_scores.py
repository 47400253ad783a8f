"""Scores against torchmetrics, cityscapesScripts, hand counts, and an argmax over explicitly stacked backgrounds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dataset.cityscapes import NUMBERS_OF_34, SPEC
from pipeline.steps.scores import (
    backgrounds_for,
    confusion_matrix,
    least_winning,
    scores_of,
    set_scores,
    split_scores,
    sweep_confusions,
)

LABELS = 6


def random_labels(seed: int, values: list[int], size: tuple[int, int] = (40, 30)) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array(values, np.uint8), size)


def as_long(labels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(labels.astype(np.int64))


@pytest.fixture(scope="module")
def theirs() -> Any:
    """torchmetrics, which is imported for these tests alone: it takes seconds."""
    from torchmetrics import classification

    return classification


@pytest.mark.parametrize("shown", [[0, 1, 2, 3, 4, 5], [0, 2, 255], [0, 1, 5, 255], [3]])
def test_confusions_are_torchmetrics(theirs: Any, shown: list[int]) -> None:
    truth, predicted = random_labels(1, shown), random_labels(2, [0, 1, 2, 3, 4, 5])
    found = confusion_matrix(truth, predicted, LABELS)
    metric = theirs.MulticlassConfusionMatrix(LABELS, ignore_index=255)
    assert found.dtype == np.int64 and not found[:, -1].any()
    assert np.array_equal(found[:, :-1], metric(as_long(predicted), as_long(truth)))


@pytest.mark.parametrize("shown", [[0, 1, 2, 3, 4, 5], [0, 2, 255], [1, 4]])
def test_iou_is_torchmetrics_and_absent_classes_are_left_out(theirs: Any, shown: list[int]) -> None:
    truth = random_labels(3, shown)
    predicted = np.where(random_labels(4, [0, 1]) == 1, truth, random_labels(5, [0, 1, 2, 3, 4, 5])) % 200
    found = scores_of(confusion_matrix(truth, predicted % LABELS, LABELS))
    metric = theirs.MulticlassJaccardIndex(LABELS, average=None, ignore_index=255)
    expected = metric(as_long(predicted % LABELS), as_long(truth)).tolist()
    present = [label for label in range(LABELS) if label in shown]
    assert [label for label, iou in enumerate(found.iou) if iou is not None] == present
    assert [found.iou[label] for label in present] == pytest.approx([expected[label] for label in present])
    assert found.miou == pytest.approx(sum(expected[label] for label in present) / len(present))


def test_values_beyond_the_classes_are_left_out_of_the_truth() -> None:
    truth = np.array([[0, 1, 2, 254, 255]], np.uint8)
    assert confusion_matrix(truth, np.array([[0, 0, 0, 0, 0]], np.uint8), 2).tolist() == [[1, 0, 0], [1, 0, 0]]


# rows: truth; columns: predicted 0, 1, 2, not predicted
HAND = np.array([[6, 1, 1, 2], [0, 3, 0, 1], [0, 0, 0, 0]])


def test_scores_by_hand() -> None:
    found = scores_of(HAND)
    # label 0: 6 right, 10 true, 6 predicted -> 6/10; label 1: 3 right, 4 true, 4 predicted -> 3/5; label 2 never shown
    assert found.iou == (pytest.approx(0.6), pytest.approx(0.6), None)
    assert found.miou == pytest.approx(0.6)
    assert found.pixel_accuracy == pytest.approx(9 / 14)
    assert found.mean_accuracy == pytest.approx((6 / 10 + 3 / 4) / 2)
    assert found.coverage == pytest.approx(11 / 14)
    assert found.precision == pytest.approx(9 / 11)


# --- the two rules for absent classes, and the split ------------------------------------------------


def of_random_labels(shown: list[int], predicted: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return random_labels(11, shown), random_labels(12, predicted)


@pytest.mark.parametrize(
    ("shown", "predicted"),
    [([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]), ([0, 2, 255], [0, 1, 2]), ([0, 255], [3, 4]), ([5], [5]), ([1], [2])],
)
def test_union_counts_what_either_shows(theirs: Any, shown: list[int], predicted: list[int]) -> None:
    """torchmetrics' macro average leaves out what neither shows, as mmsegmentation's nanmean does."""
    truth, labels = of_random_labels(shown, predicted)
    found = scores_of(confusion_matrix(truth, labels, LABELS), "union")
    metric = theirs.MulticlassJaccardIndex(LABELS, average="macro", ignore_index=255)
    assert found.miou == pytest.approx(float(metric(as_long(labels), as_long(truth))))
    for label, iou in enumerate(found.iou):
        valid = truth != 255
        union = int(((truth == label) | (labels == label))[valid].sum())
        both = int(((truth == label) & (labels == label))[valid].sum())
        assert iou == (pytest.approx(both / union) if union else None)


def test_the_rules_by_hand() -> None:
    """Label 2 is predicted at two of eight pixels and never shown; label 3 is neither."""
    truth, labels = np.array([[0, 0, 0, 0, 1, 1, 1, 1]], np.uint8), np.array([[0, 0, 2, 2, 1, 1, 1, 1]], np.uint8)
    confusion = confusion_matrix(truth, labels, 4)
    of_truth, of_union = scores_of(confusion), scores_of(confusion, "union")
    assert of_truth.iou == (0.5, 1.0, None, None) and of_truth.miou == 0.75 and of_truth.absent == "truth"
    assert of_union.iou == (0.5, 1.0, 0.0, None) and of_union.miou == 0.5 and of_union.absent == "union"
    assert of_truth.mean_accuracy == of_union.mean_accuracy == 0.75  # of the classes that are shown, by either
    assert of_truth.pixel_accuracy == of_union.pixel_accuracy == 0.75


def test_where_every_class_is_shown_the_rules_agree() -> None:
    confusion = confusion_matrix(*of_random_labels([0, 1, 2, 3, 4, 5], [0, 1, 2, 255]), LABELS)
    assert scores_of(confusion).iou == scores_of(confusion, "union").iou


@pytest.mark.parametrize("absent", ["truth", "union"])
def test_the_documented_example_of_hugging_faces_mean_iou(absent: str) -> None:
    """From the metric card of `evaluate`: three maps of different sizes, ten classes, 255 ignored."""
    pairs = [
        ([[0, 3], [5, 4], [6, 255]], [[1, 2], [3, 4], [5, 255]]),
        ([[1, 7], [9, 2], [3, 6]], [[2, 7], [9, 2], [3, 6]]),
        ([[1, 2, 2], [8, 2, 1], [3, 255, 1]], [[2, 2, 3], [8, 2, 4], [3, 255, 2]]),
    ]
    found = scores_of(sum(confusion_matrix(*(np.array(one, np.uint8) for one in pair), 10) for pair in pairs), absent)
    assert found.miou == pytest.approx(0.4775, abs=1e-12)
    assert found.mean_accuracy == pytest.approx(0.5916666666666666, abs=1e-12)
    assert found.pixel_accuracy == pytest.approx(0.5263157894736842, abs=1e-12)
    assert found.iou == pytest.approx((0, 0, 0.375, 0.4, 0.5, 0, 0.5, 1, 1, 1), abs=1e-12)


@pytest.mark.parametrize("shown", [range(34), (0, 3, 7, 11, 24), (1, 2, 6)])
def test_scores_are_those_of_cityscapes_scripts(tmp_path: Path, shown: Sequence[int]) -> None:
    """Made files of raw labels, 255 as "unlabeled" in the prediction; classes that only it shows count as 0."""
    theirs = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    values = SPEC.raw.forms[0].values  # type: ignore[union-attr]
    table = np.array([values[raw] for raw in range(34)], np.uint8)
    confusion, files = np.zeros((19, 20), np.int64), []
    for seed in range(3):
        truth, raw = random_labels(seed, [*shown]), random_labels(seed + 9, [0, *NUMBERS_OF_34[:15]])
        raw = np.where(random_labels(seed + 19, [0, 1]) == 1, truth, raw)
        predicted = table[raw]
        files.append([str(tmp_path / f"{kind}{seed}_labelIds.png") for kind in ("truth", "predicted")])
        raw = np.array([*NUMBERS_OF_34, *[0] * 237], np.uint8)[predicted]
        for path, array in zip(files[-1], (truth, raw)):
            Image.fromarray(array).save(path)
        confusion += confusion_matrix(table[truth], predicted, 19)
    options = theirs.args
    options.evalLabels, options.evalInstLevelScore, options.JSONOutput, options.quiet = [*range(34)], False, False, True
    result = theirs.evaluateImgLists([pair[1] for pair in files], [pair[0] for pair in files], options)
    ours, by_name = scores_of(confusion, "union"), result["classScores"]
    expected = [by_name[name] for name in SPEC.classes]
    assert ours.iou == pytest.approx([None if np.isnan(one) else one for one in expected])
    assert ours.miou == pytest.approx(result["averageScoreClasses"] if any(map(np.isfinite, expected)) else 0)


def test_nothing_to_score_is_zero_by_either_rule() -> None:
    found = scores_of(np.zeros((3, 4), np.int64), "union")
    assert found.iou == (None, None, None) and found.miou == 0


@pytest.mark.parametrize(
    ("seen", "unseen", "harmonic"),
    [(60.5, 52.4, 56.16), (20.4, 35.3, 25.86), (0, 0, 0), (10, 0, 0), (None, 5, None), (5, None, None)],
)
def test_harmonic_mean(seen: float | None, unseen: float | None, harmonic: float | None) -> None:
    assert split_scores([seen, unseen], [1]).harmonic == (
        None if harmonic is None else pytest.approx(harmonic, abs=0.005)
    )


@pytest.mark.parametrize(
    ("of_seen", "of_unseen", "counts", "both"), [(60.5, 52.4, (15, 5), 58.48), (20.4, 35.3, (49, 10), 22.93)]
)
def test_both_sets_together_are_the_whole(of_seen: float, of_unseen: float, counts: tuple, both: float) -> None:
    """Published rows: the mean over all classes is that of both sets, weighted by their sizes."""
    spread = [(-1) ** place * 3 for place in range(counts[0] - 1)]  # classes differ; their mean does not
    iou = [of_seen + value for value in spread[: len(spread) // 2 * 2]]
    iou += [of_seen] * (counts[0] - len(iou)) + [of_unseen] * counts[1]
    found = split_scores(iou, range(counts[0], sum(counts)))
    assert found.seen == pytest.approx(of_seen) and found.unseen == pytest.approx(of_unseen)
    assert sum(iou) / len(iou) == pytest.approx(both, abs=0.005)
    assert (found.seen * counts[0] + found.unseen * counts[1]) / sum(counts) == pytest.approx(both, abs=0.005)


def test_classes_that_do_not_count_are_in_neither_set() -> None:
    found = split_scores([0.5, None, 0.1, None, 0.3], [2, 3])
    assert found.seen == pytest.approx(0.4) and found.unseen == pytest.approx(0.1)
    assert found.harmonic == pytest.approx(2 * 0.4 * 0.1 / 0.5)
    lone = split_scores([0.5, None, None], [1, 2])
    assert (lone.seen, lone.unseen, lone.harmonic) == (0.5, None, None)


def test_unpredicted_pixels_count_as_missed() -> None:
    truth, predicted = np.array([[0, 0, 1, 1, 255]], np.uint8), np.array([[0, 255, 255, 1, 255]], np.uint8)
    assert confusion_matrix(truth, predicted, 2).tolist() == [[1, 0, 1], [0, 1, 1]]


def test_nothing_to_score_is_zero() -> None:
    found = scores_of(confusion_matrix(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8), 3))
    assert found.iou == (None, None, None)
    assert (found.miou, found.pixel_accuracy, found.mean_accuracy, found.coverage, found.precision) == (0,) * 5


@pytest.mark.parametrize(
    ("truth", "predicted", "complaint"),
    [([[0, 1]], [[0], [1]], "shape"), ([[0, 1]], [[0, 3]], "label 3"), ([[0, 1]], [[254, 0]], "label 254")],
)
def test_unfit_predictions_are_refused(truth: list, predicted: list, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        confusion_matrix(np.array(truth, np.uint8), np.array(predicted, np.uint8), 3)


def test_a_wrong_label_under_ignored_truth_does_not_matter() -> None:
    assert confusion_matrix(np.array([[255, 0]], np.uint8), np.array([[9, 0]], np.uint8), 2).sum() == 1


# --- the sweep -------------------------------------------------------------------------------------


def naive_confusion(truth: np.ndarray, keys: np.ndarray, maps: np.ndarray, setting: float, dtype: type) -> np.ndarray:
    """argmax over [background, maps], counted pixel by pixel."""
    counts = np.zeros((LABELS, LABELS + 1), np.int64)
    maps = maps.astype(dtype)
    for y, x in np.ndindex(truth.shape):
        if truth[y, x] >= LABELS:
            continue
        scores = maps[:, y, x]
        highest = scores.max() if len(scores) else dtype(0)
        background = dtype(setting) if setting < 1 else (dtype(1) - highest) ** dtype(setting)
        best = int(np.argmax(np.array([background, *scores], dtype)))
        counts[truth[y, x], 0 if best == 0 else keys[best - 1] + 1] += 1
    return counts


SETTINGS = (0.05, 0.25, 0.6, 1.0, 2.0, 3.0, 10.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("keys", [[0, 3, 4], [2], [], [4, 1]])
def test_sweep_is_argmax_over_background_and_classes(keys: list[int], dtype: type) -> None:
    """Values in eighths give ties between classes, and with constants and exponents of the background."""
    size, generator = (12, 11), np.random.default_rng(len(keys))
    maps = (generator.integers(0, 9, (len(keys), *size)) / 8).astype(np.float16)
    truth = random_labels(7, [0, 1, 4, 5, 255], size)
    found = sweep_confusions(truth, np.array(keys, np.int64), maps, SETTINGS, LABELS, dtype)
    expected = [naive_confusion(truth, np.array(keys, np.int64), maps, setting, dtype) for setting in SETTINGS]
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_sweep_of_smooth_maps_in_either_precision(dtype: type) -> None:
    keys, size = np.array([1, 3]), (16, 15)
    maps = np.random.default_rng(9).random((2, *size)).astype(np.float16)
    truth = random_labels(8, [0, 2, 4], size)
    found = sweep_confusions(truth, keys, maps, SETTINGS, LABELS, dtype)
    assert np.array_equal(found, [naive_confusion(truth, keys, maps, setting, dtype) for setting in SETTINGS])


@pytest.mark.parametrize("setting", [0.05, 0.3, 0.6, *range(1, 11)])
def test_the_least_winning_score_parts_all_half_floats(setting: float) -> None:
    """Every float16 from 0 to 1 is tried, and the neighbours of the cut for float32."""
    scores = np.arange(0, 0x3C01, dtype=np.uint16).view(np.float16)
    background = np.full_like(scores, setting) if setting < 1 else (1 - scores) ** np.float16(setting)
    assert np.array_equal(scores > background, scores >= least_winning(setting, np.float16))
    cut = least_winning(setting, np.float32)
    for score, wins in ((cut, True), (np.nextafter(cut, np.float32(0)), False)):
        given = np.float32(setting) if setting < 1 else (np.float32(1) - score) ** np.float32(setting)
        assert (score > given) == wins


@pytest.mark.parametrize(
    ("cam_type", "threshold", "settings"),
    [
        ("attn_highres", 2, (1, 2)),
        ("highres", 2, (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)),
        ("highres", 1, (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)),
        ("attn_highres", 0.3, (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)),
        ("highres", 0.33, (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.33, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)),
    ],
)
def test_settings_that_are_swept(cam_type: str, threshold: float, settings: tuple[float, ...]) -> None:
    assert backgrounds_for(cam_type, threshold) == pytest.approx(settings)


def test_scores_of_a_set_are_those_of_its_labels_and_of_all_others() -> None:
    """Label 5 is only predicted, label 3 neither shown nor predicted."""
    truth, predicted = random_labels(7, [0, 1, 2, 4, 255]), random_labels(8, [0, 1, 2, 4, 5])
    confusion, known = confusion_matrix(truth, predicted, LABELS), truth != 255
    iou, right, shown = {}, {}, {}
    for label in range(LABELS):
        own, found = known & (truth == label), known & (predicted == label)
        iou[label] = (own & found).sum() / (own | found).sum() if (own | found).any() else None
        right[label], shown[label] = (own & found).sum(), own.sum()
    total = known.sum()
    scores = scores_of(confusion, "union")
    assert scores.weighted_iou == pytest.approx(sum(shown[c] / total * iou[c] for c in (0, 1, 2, 4)))
    assert scores.accuracy == (*(pytest.approx(right[c] / shown[c]) for c in (0, 1, 2)), None, scores.accuracy[4], None)
    for absent, others in (("union", (0, 4, 5)), ("truth", (0, 4))):
        own, rest = (np.mean([iou[c] for c in labels]) for labels in ((1, 2), others))
        found = set_scores(confusion, (1, 2, 3), absent)
        assert (found.miou, found.others_miou) == (pytest.approx(own), pytest.approx(rest))
        assert found.harmonic == pytest.approx(2 / (1 / own + 1 / rest))
        assert found.pixel_accuracy == pytest.approx((right[1] + right[2]) / (shown[1] + shown[2]))
        assert found.others_pixel_accuracy == pytest.approx((right[0] + right[4]) / (shown[0] + shown[4]))
    nothing = set_scores(confusion, (3,))
    assert nothing.miou is nothing.pixel_accuracy is nothing.harmonic is None
