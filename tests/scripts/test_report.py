"""The command: what it makes, what it says of missing and damaged files, how it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.mask_png import read_mask, write_mask
from pipeline.stages import crf as stage_crf
from pipeline.stages.crf import CrfJob
from report.measure import ReportJob
from tests.report_world import add_outputs, count, parsed, texts
from tests.support import ROOT, Command, Ended

MODULE = "scripts.report"


@pytest.fixture
def job(world: Path) -> ReportJob:
    return add_outputs(world)


def run(command: Command, world: Path, *extra: object) -> Ended:
    """The command on the world, written to its folder."""
    data = ("--dataset", "voc12", "--img_root", world, "--cam_out_dir", world / "cams", "--masks", world / "masks")
    return command(MODULE, *data, "--out", world / "report.html", *extra)


def ids_on(page: Path) -> set[str]:
    return {record["id"] for record in json.loads(parsed(page).get_element_by_id("data").text)["images"]}


def test_page_is_made_and_counted(command: Command, job: ReportJob, world: Path) -> None:
    ended = run(command, world)
    assert ended.code == 0 and ended.err == ""
    assert f"5 images (5 scored) in {world / 'report.html'}" in ended.out
    assert ids_on(world / "report.html") == set("abcde")
    assert [path.name for path in world.iterdir() if path.name.startswith((".", "tmp"))] == []


def test_gallery_is_bounded_by_the_least_certain_while_all_are_scored(
    command: Command, job: ReportJob, world: Path
) -> None:
    assert run(command, world, "--gallery", 2).code == 0
    page = parsed(world / "report.html")
    assert len(ids_on(world / "report.html")) == 2 and "c" in ids_on(world / "report.html")
    assert "Of 5 images the 2 least certain ones are shown." in texts(page.cssselect("#gallery p"))[0]
    facts = dict(zip(texts(page.cssselect(".facts dt")), texts(page.cssselect(".facts dd"))))
    assert facts["mean IoU"] == f"{100 * count(world, 'abcde').miou():.1f} %"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def resize(path: Path) -> None:
    Image.open(path).resize((8, 8), Image.Resampling.NEAREST).save(path)


def strange_label(path: Path) -> None:
    write_mask(path, np.full_like(read_mask(path), 77))


@pytest.mark.parametrize(
    ("file", "harm", "reason", "shown"),
    [
        ("masks/b.png", Path.unlink, "no such mask", False),
        ("masks/b.png", truncate, "not a readable mask", False),
        ("masks/b.png", resize, "size (8, 8) where the ground truth has", False),
        ("masks/b.png", strange_label, "label 77 where voc12 has 0..20; wrong --dataset?", False),
        ("SegmentationClass/b.png", truncate, "not a readable mask", False),
        ("JPEGImages/b.jpg", Path.unlink, "no such image", True),
        ("JPEGImages/b.jpg", truncate, "not a readable image", True),
        ("JPEGImages/b.jpg", resize, "size (8, 8) where its mask has", True),
        ("cams/b.npz", Path.unlink, "no such CAM file", True),
        ("cams/b.npz", truncate, "damaged", True),
    ],
)
def test_missing_and_damaged_files_are_counted_and_listed(
    command: Command, job: ReportJob, world: Path, file: str, harm: object, reason: str, shown: bool
) -> None:
    harm(world / file)  # type: ignore[operator]
    ended = run(command, world)
    assert ended.code == 3
    assert ended.err.startswith("1 image failed:\n  b: ") and reason in ended.err and ended.err.count("\n") == 2
    page = parsed(world / "report.html")
    assert texts(page.cssselect("#problems tbody th")) == ["b"] and reason in texts(page.cssselect("#problems td"))[0]
    assert ids_on(world / "report.html") == set("abcde" if shown else "acde")


def test_several_problems_of_an_image_are_one_line(command: Command, job: ReportJob, world: Path) -> None:
    (world / "JPEGImages" / "b.jpg").unlink()
    (world / "cams" / "b.npz").unlink()
    ended = run(command, world)
    assert ended.code == 3 and "1 image failed" in ended.err and ended.err.count("\n") == 2
    assert "no such image" in ended.err and "no such CAM file" in ended.err


def test_truth_that_is_asked_for_must_be_there_and_other_truth_need_not(
    command: Command, job: ReportJob, world: Path
) -> None:
    (world / "SegmentationClass" / "b.png").unlink()
    ended = run(command, world)
    assert ended.code == 0 and "5 images (4 scored)" in ended.out
    ended = run(command, world, "--gt_root", world / "SegmentationClass")
    assert ended.code == 3 and "no ground truth for this image" in ended.err


def test_without_truth_the_page_has_no_scores(command: Command, job: ReportJob, world: Path) -> None:
    (world / "SegmentationClass").rename(world / "elsewhere")
    ended = run(command, world)
    assert ended.code == 0 and "5 images (0 scored)" in ended.out
    assert not parsed(world / "report.html").cssselect("#confusion")


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--masks", "nowhere"], "--masks nowhere: no such folder; expected the output of eval_cam_with_crf.py"),
        (["--masks", "."], "--masks .: none of the files of the "),
        (
            ["--cam_out_dir", "nowhere"],
            "--cam_out_dir nowhere: no such folder; expected the output of generate_cams.py",
        ),
        (["--img_root", "nowhere"], "--img_root nowhere: no such folder"),
        (["--gt_root", "nowhere"], "--gt_root nowhere: no such folder"),
        (["--out", "."], "--out .: a folder; expected the name of a file, such as report.html"),
        (["--out", "pyproject.toml/report.html"], "--out pyproject.toml: cannot be written to"),
        (["--gallery", "0"], "0: expected 1 or more"),
        (["--curve", "3"], "--curve needs masks of eval_cam_with_crf.py"),
        (["--cam_type", "png"], "invalid choice: 'png'"),
    ],
)
def test_mistakes_end_in_one_line(
    command: Command, job: ReportJob, world: Path, monkeypatch: pytest.MonkeyPatch, extra: list[str], says: str
) -> None:
    monkeypatch.chdir(world)
    (world / "pyproject.toml").touch()
    ended = run(command, world, *extra)
    assert ended.code == 2 and says in ended.err and ended.err.count("\n") == 1 and ended.err.startswith("error: ")
    assert not (world / "report.html").exists()


def test_voc_without_images_is_refused(command: Command, job: ReportJob, world: Path) -> None:
    split = world / "ImageSets/Segmentation/train.txt"
    folders = ("--cam_out_dir", world / "cams", "--masks", world / "masks", "--gt_root", world / "SegmentationClass")
    ended = command(MODULE, "--dataset", "voc12", "--split_file", split, *folders)
    assert ended.code == 2 and "--img_root is needed" in ended.err


def test_curve_meets_the_written_masks_at_their_threshold(command: Command, job: ReportJob, world: Path) -> None:
    crf = CrfJob(world / "cams", world / "JPEGImages", world / "masks", None, 20, confidence=0.6, overwrite=True)
    made = list(stage_crf.run(crf, list("abcde"), crf.empty_totals(), 1))
    assert {outcome.status for outcome in made} == {"made"}
    assert run(command, world, "--curve", 99).code == 0
    page = parsed(world / "report.html")
    rows = {texts([row[0]])[0]: texts(row[1:]) for row in page.cssselect("#thresholds tbody tr")}
    counted = count(world, "abcde")
    assert rows["0.6"] == [
        f"{100 * counted.kept() / counted.total():.1f}",
        f"{100 * counted.right() / counted.kept():.1f}",
    ]
    assert rows["0"][0] == "100.0"
    assert "run again on 5 images" in page.text_content()
    assert "255 below a probability of 0.6" in texts(page.cssselect(".from"))[0]


def test_curve_leaves_out_masks_made_in_another_way(command: Command, job: ReportJob, world: Path) -> None:
    crf = CrfJob(world / "cams", world / "JPEGImages", world / "masks", None, 20, overwrite=True)
    list(stage_crf.run(crf, list("abcde"), crf.empty_totals(), 1))
    write_mask(world / "masks" / "d.png", read_mask(world / "masks" / "d.png"), made_by="{}")
    ended = run(command, world, "--curve", 99)
    assert ended.code == 3 and "d.png: not made from" in ended.err
    assert "run again on 4 images" in parsed(world / "report.html").text_content()


def test_help_is_quick() -> None:
    code = f"import sys, {MODULE}; print(sorted({{'torch', 'numpy', 'cv2', 'PIL'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
