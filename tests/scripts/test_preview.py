"""scripts/preview.py: a row an image, a column a stage, and a line for each mistake."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from report.pictures import GAP, TITLE, colour_labels
from tests.report_world import add_outputs
from tests.support import Command, Ended

CELL = (200, 160)  # (width, height), as contact_sheet has it


def run(command: Command, world: Path, *more: object) -> Ended:
    data = ("--dataset", "voc12", "--img_root", world, "--cam_out_dir", world / "cams")
    return command("scripts.preview", *data, "--out", world / "p.png", *more)


@pytest.fixture
def shown(world: Path, quick_crf: None) -> Path:
    """The small world with CAM files."""
    add_outputs(world)
    return world


def columns(sheet: Path) -> int:
    width, rest = divmod(Image.open(sheet).width - GAP, CELL[0] + GAP)
    assert rest == 0
    return width


def rows(sheet: Path) -> int:
    return (Image.open(sheet).height - TITLE - GAP) // (CELL[1] + GAP)  # the legend is lower than a row


def test_every_image_has_all_stages(command: Command, shown: Path) -> None:
    ended = run(command, shown)
    assert ended.code == 0 and not ended.err and "5 images in" in ended.out
    assert columns(shown / "p.png") == 6 and rows(shown / "p.png") == 5


def test_the_second_column_is_the_truth(command: Command, shown: Path) -> None:
    truth = np.asarray(Image.open(shown / "SegmentationClass" / "a.png"))
    assert run(command, shown, "--count", 1).code == 0
    sheet = np.asarray(Image.open(shown / "p.png").convert("RGB"))
    cell = sheet[TITLE : TITLE + CELL[1], 2 * GAP + CELL[0] : 2 * GAP + 2 * CELL[0]]
    wanted = {tuple(colour) for colour in colour_labels(truth).reshape(-1, 3).tolist()}
    assert {tuple(colour) for colour in cell.reshape(-1, 3).tolist()} == wanted  # white is 255 and the paper


def test_without_truth_there_is_no_column_for_it(command: Command, shown: Path) -> None:
    (shown / "SegmentationClass").rename(shown / "elsewhere")
    assert run(command, shown).code == 0 and columns(shown / "p.png") == 5


def test_a_damaged_file_costs_its_row(command: Command, shown: Path) -> None:
    (shown / "JPEGImages" / "b.jpg").write_bytes(b"no image")
    ended = run(command, shown)
    assert ended.code == 3 and "1 image failed:\n  b: " in ended.err and "4 images in" in ended.out
    assert rows(shown / "p.png") == 4


def test_no_row_at_all_is_no_picture(command: Command, shown: Path) -> None:
    for photo in (shown / "JPEGImages").iterdir():
        photo.write_bytes(b"no image")
    ended = run(command, shown)
    assert ended.code == 3 and ended.err.startswith("nothing could be shown\n5 images failed:")
    assert not (shown / "p.png").exists()


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--cam_out_dir", "nowhere"], "--cam_out_dir nowhere: none of the files of"),
        (["--gt_root", "nowhere"], "--gt_root nowhere: no such folder; expected one mask PNG an image"),
        (["--out", "."], "--out .: a folder; expected the name of a file, such as preview.png"),
        (["--count", "0"], "0: expected 1 or more"),
    ],
)
def test_mistakes_are_one_line(
    command: Command, shown: Path, monkeypatch: pytest.MonkeyPatch, extra: list[str], says: str
) -> None:
    monkeypatch.chdir(shown)
    ended = run(command, shown, *extra)
    assert ended.code == 2 and says in ended.err and ended.err.count("\n") == 1 and ended.err.startswith("error: ")
    assert not (shown / "p.png").exists()
