"""Scores as a table and as JSON."""

import json
from pathlib import Path

import numpy as np
import pytest

from dataset.spec import DatasetSpec
from pipeline.report import print_table, summary, swept_summary, write_json
from pipeline.scores import scores_of

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


def test_no_path_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(None, {})
    assert capsys.readouterr().out == ""
