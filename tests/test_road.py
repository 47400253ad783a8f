"""The three commands one after the other: what they write, where, and what a second run does."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.made import made
from tests.support import ROOT, Desk, annotation, photo, tree

COMMANDS = ("generate_cams", "eval_cam", "eval_cam_with_crf")


def modes() -> dict[str, tuple[str, Image.Image]]:
    picture = Image.fromarray(photo((24, 32), 1))
    deep = np.asarray(picture.convert("L")).astype(np.uint16) * 257
    return {
        "grey": ("jpg", picture.convert("L")),
        "CMYK": ("jpg", picture.convert("CMYK")),
        "16-bit": ("png", Image.fromarray(deep)),
        "palette": ("png", picture.convert("P")),
        "RGBA": ("png", picture.convert("RGBA")),
        "grey and alpha": ("png", picture.convert("LA")),
        "black and white": ("png", picture.convert("1")),
    }


def test_images_of_every_mode_go_all_the_way(desk: Desk, quick_crf: None) -> None:
    for name, (suffix, image) in modes().items():
        image_id = name.replace(" ", "_")
        image.save(desk.data / "JPEGImages" / f"{image_id}.{suffix}")
        desk.xml(image_id).write_text(annotation(["cat"]))
    desk.split.write_text("".join(f"{name.replace(' ', '_')}\n" for name in modes()))
    assert desk.run("generate_cams").code == 0
    ended = desk.run("eval_cam_with_crf")
    assert ended.code == 0, ended.err
    masks = list(desk.masks.glob("*.png"))
    for path in masks:
        assert Image.open(path).size == (32, 24) and set(np.unique(Image.open(path))) <= {0, 8, 255}
    assert len(masks) == len(modes())


def test_nothing_is_written_beside_the_output(desk: Desk, quick_crf: None) -> None:
    before = tree(desk.root)
    code_before = _product_files()
    assert desk.run("generate_cams").code == 0
    assert desk.run("eval_cam", "--json", desk.root / "scores" / "s.json").code == 0
    assert desk.run("eval_cam_with_crf").code == 0
    written = tree(desk.root).keys() - before.keys()
    assert written == {f"{kind}/{i}.{end}" for kind, end in (("cams", "npz"), ("masks", "png")) for i in "abc"} | {
        "scores/s.json",
        "cams/run.json",
        "masks/run.json",
    }
    assert {name: data for name, data in tree(desk.root).items() if name in before} == before
    assert _product_files() == code_before


def _product_files() -> set[str]:
    folders = ("clip", "cli", "common", "dataset", "pipeline", "report", "voc12")
    return {str(path) for folder in folders for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts}


def test_default_output_is_below_the_working_folder(desk: Desk, quick_crf: None) -> None:
    data: list[object] = ["--dataset", "voc12", "--img_root", desk.data]
    assert desk.command("generate_cams", *data, "--model", desk.weights, "--device", "cpu").code == 0
    assert desk.command("eval_cam", *data).code == 0
    assert desk.command("eval_cam_with_crf", *data).code == 0
    assert desk.command("eval_cam", *data, "--cam_type", "png").code == 0
    for kind, end in (("cams", "npz"), ("masks", "png")):
        assert list(made(desk.root / "output/voc12" / kind)) == [f"{i}.{end}" for i in "abc"]


def test_an_image_without_labels_becomes_background(desk: Desk, quick_crf: None) -> None:
    assert desk.run("generate_cams").code == 0 and desk.run("eval_cam_with_crf").code == 0
    mask = np.array(Image.open(desk.masks / "c.png"))
    assert mask.shape == (17, 40) and not mask.any()


def test_a_second_run_keeps_and_changed_settings_are_refused(desk: Desk) -> None:
    assert "3 CAM files written in" in desk.run("generate_cams").out
    before = made(desk.cams)
    assert "0 CAM files written, 3 already there" in desk.run("generate_cams").out
    ended = desk.run("generate_cams", "--box_threshold", "0.7")
    assert (
        ended.code == 2 and "box_threshold 0.4 (now 0.7); pass --overwrite" in ended.err and ended.err.count("\n") == 1
    )
    assert made(desk.cams) == before
    assert desk.run("generate_cams", "--box_threshold", "0.7", "--overwrite").code == 0
    assert made(desk.cams) != before


def test_crf_scores_only_when_asked(desk: Desk, quick_crf: None) -> None:
    assert desk.run("generate_cams").code == 0
    assert "mIoU" not in desk.run("eval_cam_with_crf").out
    assert "mIoU" in desk.run("eval_cam_with_crf", "--gt_root", desk.data / "SegmentationClass").out
    before = tree(desk.root)
    assert "mIoU" in desk.run("eval_cam_with_crf", "--eval_only").out
    assert tree(desk.root) == before


@pytest.mark.slow
def test_worker_processes_write_the_same_files(desk: Desk) -> None:
    assert desk.run("generate_cams").code == 0
    before = made(desk.cams)
    ended = desk.run("generate_cams", "--num_workers", "2", "--cam_out_dir", desk.root / "again")
    assert ended.code == 0, ended.err
    assert made(desk.root / "again") == before


# --- in a process of their own ---------------------------------------------------------------------


def process(*argv: object, cwd: Path = ROOT, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONWARNINGS": "default"}
    command = [sys.executable, *python, *map(str, argv)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_needs_no_torch(name: str) -> None:
    ended = process(f"{name}.py", "--help", python=("-X", "importtime"))
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert ended.returncode == 0 and "usage:" in ended.stdout and "argparse" in imported
    assert not imported & {"torch", "numpy", "cv2", "open_clip", "numba", "PIL", "lxml"}


@pytest.mark.parametrize("name", ["eval_cam", "eval_cam_with_crf"])
def test_a_mistake_ends_the_process_in_two(name: str, tmp_path: Path) -> None:
    ended = process(ROOT / f"{name}.py", "--dataset", "voc12", "--img_root", "nowhere", cwd=tmp_path)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("error: --img_root nowhere") and ended.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_whole_road_in_processes(desk: Desk, tmp_path: Path) -> None:
    """From another working folder, with warnings shown: stderr stays empty."""
    for name in COMMANDS:
        ended = process(ROOT / f"{name}.py", *desk.options(name), cwd=tmp_path)
        assert ended.returncode == 0 and ended.stderr == "", ended.stderr
    assert list(made(desk.masks)) == ["a.png", "b.png", "c.png"]


def test_ground_truth_of_other_values_is_refused(desk: Desk, quick_crf: None) -> None:
    """Left out silently, as 255 is, objects of value 200 would leave a splendid score of the background."""
    assert desk.run("generate_cams").code == 0
    truth = desk.data / "SegmentationClass" / "a.png"
    with Image.open(truth) as image:
        Image.fromarray(np.where(np.array(image) == 0, 0, 200).astype(np.uint8)).save(truth)
    for ended in (desk.run("eval_cam"), desk.run("eval_cam_with_crf", "--eval_only")):
        assert ended.code == 3 and "a.png: holds label 200; expected labels 0 to 20" in ended.err
