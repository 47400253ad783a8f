"""A place for what is written at the end of a run is checked at its beginning."""

from pathlib import Path

import pytest

from common.errors import UserError
from common.files import check_place, need_dir, need_file
from tests.support import Desk


def test_a_place_that_can_be_written_passes_and_nothing_is_left_there(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("old")
    for path in (None, tmp_path / "new.json", tmp_path / "old.json", tmp_path / "a" / "b" / "new.json"):
        check_place(path, "--json", "scores.json")
    assert [path.name for path in tmp_path.rglob("*")] == ["old.json"]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        check_place(tmp_path, "--json", "scores.json")
    said = f"--json {tmp_path}: a folder; expected the name of a file, such as {tmp_path}/scores.json"
    assert str(caught.value) == said


@pytest.mark.parametrize("inside", ["taken/scores.json", "taken/deeper/scores.json"])
def test_a_file_is_no_folder(tmp_path: Path, inside: str) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match=rf"--json {(tmp_path / inside).parent}: cannot be written to"):
        check_place(tmp_path / inside, "--json", "scores.json")


def test_a_link_to_nothing_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"--json .*/link: cannot be written to"):
        check_place(tmp_path / "link" / "scores.json", "--json", "scores.json")


def test_a_command_that_is_refused_leaves_no_folder(desk: Desk) -> None:
    before = sorted(desk.root.rglob("*"))
    ended = desk.run("generate_cams", "--model", desk.root / "none.pt", "--cam_out_dir", desk.root / "new" / "cams")
    assert ended.code == 2 and sorted(desk.root.rglob("*")) == before
    assert desk.run("generate_cams").code == 0
    before = sorted(desk.root.rglob("*"))
    wrong = desk.run("eval_cam_with_crf", "--json", desk.root / "scores.json")  # no --gt_root, so there are no scores
    assert wrong.code == 2 and sorted(desk.root.rglob("*")) == before


def test_a_name_may_be_too_long(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written to"):
        check_place(tmp_path / ("x" * 300) / "scores.json", "--json", "scores.json")
    for need in (need_dir, need_file):
        with pytest.raises(UserError, match="no such"):
            need(tmp_path / ("x" * 300), "--img_root", "images")


def test_eval_cam_asks_before_it_scores(desk: Desk) -> None:
    assert desk.run("generate_cams").code == 0
    (desk.root / "folder").mkdir()
    ended = desk.run("eval_cam", "--json", desk.root / "folder")
    assert ended.code == 2 and ended.out == "" and ended.err.startswith("error: --json ")
    assert ended.err.count("\n") == 1
