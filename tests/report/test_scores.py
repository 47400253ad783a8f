"""Scores as a table and as JSON."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataset.spec import DatasetSpec
from pipeline.steps.scores import scores_of
from report.scores import print_table, summary, swept_summary, write_json

SPEC = DatasetSpec("pets", ("cat", "dog", "bird"), (("cat",), ("dog",), ("bird",)), ("sky",), True, 0.4)
SPLIT = Path("split.txt")
# rows: truth; columns: background, cat, dog, bird, not predicted. IoU: 3/4, 2/3, absent, 0/1.
CONFUSION = np.array([[3, 0, 0, 0, 0], [0, 2, 0, 0, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]])
WORSE = np.array([[1, 2, 0, 0, 0], [0, 2, 0, 0, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]])
MIOU = (3 / 4 + 2 / 3 + 0) / 3


def test_json_says_which_classes_were_absent(tmp_path: Path) -> None:
    result = summary("masks", SPEC, scores_of(CONFUSION), 5, SPLIT, CONFUSION, settings={"a": 1})
    write_json(tmp_path / "deep" / "s.json", result)
    found = json.loads((tmp_path / "deep" / "s.json").read_text())
    assert found["classes"] == {"background": 0.75, "cat": pytest.approx(2 / 3), "dog": None, "bird": 0}
    assert (
        found["miou"] == pytest.approx(MIOU)
        and found["absent_classes"] == ["dog"]
        and "left out" in found["absent_rule"]
    )
    assert (found["stage"], found["dataset"], found["split"], found["images"]) == ("masks", "pets", "split.txt", 5)
    assert found["pixels"] == 7 and found["settings"] == {"a": 1}
    assert found["coverage"] == pytest.approx(6 / 7) and found["precision"] == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("order", "values", "best"), [([1, 0], [1.0, 2.0], 2.0), ([0, 1], [1.0, 2.0], 1.0), ([0, 0], [3.0, 7.0], 3.0)]
)
def test_the_best_background_is_reported_with_all_others(order: list[int], values: list[float], best: float) -> None:
    confusions = np.stack([(CONFUSION, WORSE)[index] for index in order])
    found = swept_summary("attn", SPEC, confusions, values, 5, SPLIT)
    assert found["background"]["value"] == best and found["background"]["chosen_on"] == "the ground truth"
    assert found["miou"] == pytest.approx(MIOU) and found["classes"]["background"] == 0.75
    worse = (1 / 4 + 2 / 5 + 0) / 3  # background 1/(3+1+...), cat 2/(3+2)
    assert list(found["background"]["miou_by_value"]) == [f"{value:g}" for value in values]
    assert list(found["background"]["miou_by_value"].values()) == pytest.approx(
        [(MIOU, worse)[index] for index in order]
    )


@pytest.mark.parametrize(("value", "kind"), [(0.3, "constant"), (1.0, "exponent"), (3.0, "exponent")])
def test_kind_of_background(value: float, kind: str) -> None:
    assert kind in swept_summary("cam", SPEC, CONFUSION[None], [value], 5, SPLIT)["background"]["kind"]


def test_table_is_in_percent(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(swept_summary("attn", SPEC, np.stack([WORSE, CONFUSION]), [1.0, 2.0], 5, SPLIT))
    out = capsys.readouterr().out
    for words in ("refined", "5 images", "split.txt", "mIoU  47.2", "cat             66.7", "dog                -",
                  "1: 21.7", "2: 47.2", "best 2", "coverage  85.7", "left out of the means: dog"):  # fmt: skip
        assert words in out, words


# --- absent classes, seen and unseen ---------------------------------------------------------------

# rows: truth; columns: background, cat, dog, bird, not predicted. The dog is predicted and never shown.
WITH_A_DOG = np.array([[3, 0, 1, 0, 0], [0, 2, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 1, 0]])
SPLIT_SPEC = replace(SPEC, unseen=(0, 1))
DENSE_SPEC = replace(SPEC, has_background=False, unseen=(2,))


def told(result: dict, capsys: pytest.CaptureFixture[str], **how: bool) -> str:
    capsys.readouterr()
    print_table(result, **how)
    return capsys.readouterr().out


def test_table_and_json_say_by_which_rule(capsys: pytest.CaptureFixture[str]) -> None:
    found = summary("crf", SPEC, scores_of(WITH_A_DOG), 1, SPLIT, WITH_A_DOG)
    assert found["absent"] == "truth" and found["absent_classes"] == ["dog"] and found["classes"]["dog"] is None
    assert found["absent_rule"] == "classes that the ground truth never shows are left out of the means"
    assert "--absent truth: not in the ground truth, left out of the means: dog\n" in told(found, capsys)
    found = summary("crf", SPEC, scores_of(WITH_A_DOG, "union"), 1, SPLIT, WITH_A_DOG)
    assert found["absent"] == "union" and found["absent_classes"] == [] and found["classes"]["dog"] == 0
    assert found["miou"] == pytest.approx((3 / 4 + 1 + 0 + 1) / 4) and "IoU 0" in found["absent_rule"]
    assert "--absent union: classes that are only predicted count with IoU 0\n" in told(found, capsys)
    nothing = WITH_A_DOG[:, [0, 1, 1, 3, 4]] * [1, 1, 0, 1, 1]  # nobody speaks of dogs
    found = summary("crf", SPEC, scores_of(nothing, "union"), 1, SPLIT, nothing)
    assert found["absent_classes"] == ["dog"]
    assert "neither in the ground truth nor predicted, left out of the means: dog" in told(found, capsys)


def test_a_sweep_is_chosen_by_the_rule_that_is_asked_for() -> None:
    """One setting predicts a dog and gets everything else right, the other one misses some of the cat."""
    careful = np.array([[4, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 1, 0]])
    both = np.stack([WITH_A_DOG, careful])
    chosen = {rule: swept_summary("cam", SPEC, both, [1, 2], 1, SPLIT, rule) for rule in ("truth", "union")}
    assert chosen["truth"]["background"]["value"] == 1 and chosen["union"]["background"]["value"] == 2
    assert chosen["union"]["absent"] == "union"
    assert chosen["truth"]["background"]["miou_by_value"] == {
        "1": pytest.approx((3 / 4 + 1 + 1) / 3), "2": pytest.approx((4 / 5 + 1 / 2 + 1) / 3)
    }  # fmt: skip


def test_seen_and_unseen(capsys: pytest.CaptureFixture[str]) -> None:
    """The background is among the seen; cat and dog are not."""
    found = summary("masks", SPLIT_SPEC, scores_of(WITH_A_DOG, "union"), 1, SPLIT, WITH_A_DOG)
    assert found["miou_seen"] == pytest.approx((3 / 4 + 1) / 2) and found["miou_unseen"] == pytest.approx((1 + 0) / 2)
    assert found["hiou"] == pytest.approx(2 * 0.875 * 0.5 / 1.375)
    base = found["sets"]["base"]
    assert list(found["sets"]) == ["base"] and base["harmonic"] == found["hiou"] and base["miou"] == found["miou_seen"]
    assert "hIoU" not in told(found, capsys)
    line = "mIoU of seen classes, the background among them  87.5   of unseen ones  50.0   hIoU  63.6"
    assert line in told(found, capsys, splits=True)


def test_a_set_of_which_nothing_counts_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    confusion = np.array([[3, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0]])
    found = summary("masks", DENSE_SPEC, scores_of(confusion), 1, SPLIT, confusion)
    assert found["miou_seen"] == 1 and found["miou_unseen"] is None and found["hiou"] is None
    assert "mIoU of seen classes 100.0   of unseen ones -   hIoU -" in told(found, capsys, splits=True)


def test_without_a_split_nothing_is_said_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    found = summary("crf", SPEC, scores_of(CONFUSION), 1, SPLIT, CONFUSION)
    assert not {"miou_seen", "miou_unseen", "hiou"} & set(found)
    assert "unseen" not in told(found, capsys, splits=True)


def test_long_names_and_many_classes(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers stand in columns; of the classes that are left out twenty are named."""
    classes = ("wall", "television receiver", *(f"thing{number}" for number in range(40)))
    spec = DatasetSpec("rooms", classes, tuple((name,) for name in classes), (), False, 0.4)
    confusion = np.zeros((42, 43), np.int64)
    confusion[0, 0] = confusion[1, 1] = confusion[40, 0] = 1
    out = told(summary("crf", spec, scores_of(confusion), 1, SPLIT, confusion), capsys)
    rows = [line for line in out.splitlines() if "thing" in line and ":" not in line]
    assert len({tuple(match.end() for match in re.finditer(r" (-|[0-9]+\.[0-9])(?= |$)", row)) for row in rows}) == 1
    assert "thing0, thing1," in out and "thing19 and 19 more\n" in out and "thing20," not in out


def test_no_path_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(None, {})
    assert capsys.readouterr().out == ""
