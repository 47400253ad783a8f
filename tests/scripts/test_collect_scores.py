"""scripts/collect_scores.py: the table and the JSON say what the score files say."""

import json
import re
from pathlib import Path

import pytest

from scripts.collect_scores import METHODS
from tests.support import ROOT, Command, Ended
from voc12.spec import PUBLISHED

STAGES = ("cam", "attn", "crf")


def write_scores(folder: Path, names: list[str]) -> dict[str, float]:
    """A score of its own in every file."""
    folder.mkdir()
    scores = {name: (place + 10) / 100 for place, name in enumerate(names)}
    for name, miou in scores.items():
        sets = {"miou_seen": miou + 0.2, "miou_unseen": None if name == "maskclip" else 0.5, "hiou": miou / 2}
        (folder / f"{name}.json").write_text(json.dumps({"miou": miou, "images": 3, "pixel_accuracy": 0.9, **sets}))
    return scores


def collect(command: Command, folder: Path, *options: str) -> Ended:
    return command("scripts.collect_scores", folder / "scores", "--out", folder / "all.json", *options)


def test_stages_stand_in_their_order_beside_the_published_numbers(tmp_path: Path, command: Command) -> None:
    scores = write_scores(tmp_path / "scores", list(STAGES))
    ended = collect(command, tmp_path, "--published", "voc12")
    assert ended.code == 0
    assert {stage: found["miou"] for stage, found in json.loads((tmp_path / "all.json").read_text()).items()} == scores
    rows = [line.split()[-4:] for line in ended.out.splitlines()[2:5]]
    assert rows == [[f"{100 * scores[stage]:.1f}", "90.0", "3", f"{PUBLISHED[stage]:.1f}"] for stage in STAGES]


def test_each_method_has_both_scores(tmp_path: Path, command: Command) -> None:
    scores = write_scores(tmp_path / "scores", [f"{name}{way}" for name in METHODS for way in ("-maps", "")])
    ended = collect(command, tmp_path, "--methods")
    assert ended.code == 0
    collected = json.loads((tmp_path / "all.json").read_text())
    assert list(collected) == list(METHODS)
    for line, (name, (title, _)) in zip(ended.out.splitlines()[2:], METHODS.items()):
        before, after = scores[f"{name}-maps"], scores[name]
        assert (collected[name]["maps"]["miou"], collected[name]["crf"]["miou"]) == (before, after)
        unseen = "-" if name == "maskclip" else "50.0"
        wanted = [*(f"{100 * value:.1f}" for value in (before, after, after + 0.2)), unseen, f"{50 * after:.1f}"]
        assert line.startswith(title) and line.split()[-5:] == wanted


@pytest.mark.parametrize(("text", "says"), [(None, "attn.json: no such file"), ("{", "attn.json: not JSON")])
def test_a_missing_or_broken_score_is_one_line(tmp_path: Path, command: Command, text: str | None, says: str) -> None:
    write_scores(tmp_path / "scores", ["cam", "crf"])
    if text:
        (tmp_path / "scores" / "attn.json").write_text(text)
    ended = collect(command, tmp_path)
    assert ended.code == 2 and says in ended.err and ended.err.count("\n") == 1
    assert not (tmp_path / "all.json").exists()


def test_the_recipe_makes_every_method() -> None:
    """`make_masks SCENES NAME SCORE`, `network NAME` and `zsseg_trained NAME` write the scores of that name."""
    recipe = (ROOT / "scripts" / "compare_toyworld.sh").read_text()
    made = re.findall(r"(?:make_masks \$held_out \S+ |(?:network|zsseg_trained) (?=.*--))([a-z-]+)", recipe)
    assert sorted(made) == sorted(METHODS)
