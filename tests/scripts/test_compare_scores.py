"""The table of scripts/compare_toyworld.sh says what the score files say."""

import json
import re
from pathlib import Path

from scripts.compare_scores import ROWS
from tests.support import Command

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare_toyworld.sh"


def write_scores(folder: Path) -> dict[str, float]:
    """A different score for every file that is looked for."""
    folder.mkdir()
    names = [f"{row.name}{way}" for row in ROWS for way in ("-maps", "")]
    scores = {name: (place + 10) / 100 for place, name in enumerate(names)}
    for name, miou in scores.items():
        (folder / f"{name}.json").write_text(json.dumps({"miou": miou, "images": 3}))
    return scores


def test_each_row_holds_both_scores(tmp_path: Path, command: Command) -> None:
    scores = write_scores(tmp_path / "scores")
    ended = command("scripts.compare_scores", tmp_path / "scores", "--out", tmp_path / "all.json")
    assert ended.code == 0
    told = json.loads((tmp_path / "all.json").read_text())
    lines = ended.out.splitlines()
    for row in ROWS:
        before, after = scores[f"{row.name}-maps"], scores[row.name]
        assert (told[row.name]["maps"]["miou"], told[row.name]["crf"]["miou"]) == (before, after)
        assert any(
            line.startswith(row.title) and line.split()[-2:] == [f"{100 * before:.1f}", f"{100 * after:.1f}"]
            for line in lines
        )


def test_a_missing_score_is_one_line(tmp_path: Path, command: Command) -> None:
    write_scores(tmp_path / "scores")
    (tmp_path / "scores" / "clip-es.json").unlink()
    ended = command("scripts.compare_scores", tmp_path / "scores", "--out", tmp_path / "all.json")
    assert ended.code == 2 and "clip-es.json: no such file" in ended.err and "Traceback" not in ended.err
    assert not (tmp_path / "all.json").exists()


def test_the_recipe_makes_every_contestant() -> None:
    """`make_masks SCENES NAME SCORE` and `network NAME` write the scores of that name."""
    made = re.findall(r"(?:make_masks \$held_out \S+ |network (?=.*--))([a-z-]+)", SCRIPT.read_text())
    assert sorted(made) == sorted(row.name for row in ROWS)
