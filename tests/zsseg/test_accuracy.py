"""Accuracies against sums over the regions, one by one, and the reference's numbers."""

import numpy as np
import pytest

from zsseg.accuracy import accuracies, hits

NAMES = ("cat", "dog", "sky", "mat", "sea", "sun", "ice")


def test_accuracies_are_those_of_a_loop_over_regions() -> None:
    rng = np.random.default_rng(0)
    logits, classes = rng.normal(size=(60, 7)), rng.choice([0, 1, 2, 3, 5], 60)
    found = accuracies(hits(logits[:25], classes[:25]) + hits(logits[25:], classes[25:]), NAMES, {"base": (0, 1, 4)})
    for top in (1, 5):
        right = [label in sorted(range(7), key=lambda c: -row[c])[:top] for row, label in zip(logits, classes)]
        each = {name: [hit for hit, label in zip(right, classes) if label == index] for index, name in enumerate(NAMES)}
        assert found[f"macc_top{top}"] == pytest.approx(sum(right) / 60)
        means = {name: sum(values) / len(values) if values else 0.0 for name, values in each.items()}
        assert {name: found[f"acc_top{top}_{name}"] for name in NAMES} == pytest.approx(means)
        assert found[f"mmacc_top{top}"] == pytest.approx(sum(means.values()) / 7)
        if top == 1:
            base = [*each["cat"], *each["dog"], *each["sea"]]
            rest = [*each["sky"], *each["mat"], *each["sun"]]
            assert found["acc_top1_base"] == pytest.approx(sum(base) / len(base))
            assert found["acc_top1_w/o_base"] == pytest.approx(sum(rest) / len(rest))


def test_equal_logits_go_to_the_first_class_and_no_regions_count_nothing() -> None:
    assert hits(np.zeros((2, 3)), np.array([0, 2])).tolist() == [[1, 0, 1], [1, 0, 0], [1, 0, 1]]
    found = accuracies(np.zeros((3, 3), np.int64), ("a", "b", "c"), {"base": (0,)})
    assert found["macc_top1"] == found["mmacc_top5"] == 0 and "acc_top1_base" not in found
