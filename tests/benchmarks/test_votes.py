"""The benchmark of votes runs, and its plain vote gives what ours gives."""

import json
from pathlib import Path

import pytest

from benchmarks import votes
from tests.support import Command


@pytest.mark.slow
def test_both_votes_are_the_same(command: Command, tmp_path: Path) -> None:
    ended = command("benchmarks.votes", "--quick", "--no_memory", "--masks", 30, "--json", tmp_path / "f.json")
    assert ended.code == 0, ended.err
    (row,) = json.loads((tmp_path / "f.json").read_text())["rows"]
    assert row["masks"] == 30 and row["equal"] == 1 and row["added"] > 0 and row["ratio"] > 0


def test_the_large_photos_are_worked_on(tmp_path: Path, command: Command) -> None:
    options = votes.large_road(tmp_path, (30, 40), 3, 2)
    assert command("eval_cam_with_crf", *options).code == 0
    assert sorted(path.name for path in (tmp_path / "masks").glob("*.png")) == ["0.png", "1.png"]
