"""The three commands one after the other: what they write, where, and what a second run does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.made import made
from tests.support import ROOT, Desk, Ended, replace_photo, tree

COMMANDS = ("generate_cams", "eval_cam", "eval_cam_with_crf")


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


def straight(desk: Desk, *more: object) -> Ended:
    """scripts.run on the desk's data, into a folder of its own."""
    data = ("--dataset", "voc12", "--img_root", desk.data, "--model", desk.weights, "--device", "cpu")
    return desk.command("scripts.run", *data, "--pseudo_mask_save_path", desk.root / "run", *more)


def test_a_replaced_photo_is_worked_on_again(desk: Desk, quick_crf: None) -> None:
    """One of the same name, size and modification time; the CRF alone says that the maps are of another one."""
    roads = (lambda: desk.run("generate_cams"), lambda: desk.run("eval_cam_with_crf"), lambda: straight(desk))
    for road in roads:
        assert road().code == 0
    replace_photo(desk.image("a"))
    ended = desk.run("eval_cam_with_crf")
    assert ended.code == 3 and "a.jpg: another photo than its maps were made of; run generate_cams.py" in ended.err
    for road in roads:
        ended = road()
        assert ended.code == 0 and " written, 2 already there" in ended.out and ended.out.count("\n1 ") == 1, ended.out
    assert made(desk.masks) == made(desk.root / "run")


def test_with_labels_by_clip_too(desk: Desk, quick_crf: None) -> None:
    """CLIP may see something else in the new photo."""
    by_clip = ("--labels", "clip", "--templates", "dataset")
    assert desk.run("generate_cams", *by_clip).code == 0 and straight(desk, *by_clip).code == 0
    replace_photo(desk.image("a"))
    for ended in (desk.run("generate_cams", *by_clip), straight(desk, *by_clip)):
        assert ended.code == 0 and " written, 2 already there" in ended.out, ended.err


def test_files_made_in_different_ways_are_not_scored_together(desk: Desk, quick_crf: None) -> None:
    """CAM files of two methods, and masks of two settings, in one folder; it is said which and what differs."""
    other = desk.root / "other"
    assert desk.run("generate_cams").code == 0 and desk.run("eval_cam_with_crf").code == 0
    assert desk.run("eval_cam_with_crf", "--confidence", 0.5, "--pseudo_mask_save_path", other).code == 0
    maskclip = ("--method", "maskclip", "--templates", "dataset", "--frame", 0)
    assert desk.run("generate_cams", *maskclip, "--cam_out_dir", other / "cams").code == 0
    (desk.cams / "b.npz").write_bytes((other / "cams/b.npz").read_bytes())
    (desk.masks / "c.png").write_bytes((other / "c.png").read_bytes())
    masks = ("--cam_type", "png", "--cam_out_dir", desk.masks)
    for ended, names, said in (
        (desk.run("eval_cam"), ("a.npz", "b.npz"), "method clip-es (there maskclip)"),
        (desk.run("eval_cam_with_crf", "--eval_only"), ("a.npz", "b.npz"), "method clip-es (there maskclip)"),
        (desk.run("eval_cam", *masks), ("a.png", "c.png"), "confidence 0.95 (there 0.5)"),
    ):
        assert ended.code == 2 and ended.err.startswith("error: ") and ended.err.count("\n") == 1, ended.err
        assert all(name in ended.err for name in names) and said in ended.err
        assert "made in different ways" in ended.err and "mIoU" not in ended.out


def forget(path: Path) -> None:
    """A CAM file as other programs write it, without record."""
    with np.load(path) as arrays:
        left = {name: arrays[name] for name in arrays if name != "made_by"}
    np.savez(path, **left)


@pytest.mark.parametrize("method", ["clip-es", "maskclip-v"])
def test_files_without_record_are_trusted(desk: Desk, quick_crf: None, method: str) -> None:
    """Wherever they stand in the list, but not beside maps of another kind."""
    assert desk.run("generate_cams", "--cam_out_dir", desk.root / "plain").code == 0
    options: tuple[Any, ...] = () if method == "clip-es" else ("--templates", "dataset")
    assert desk.run("generate_cams", "--method", method, *options).code == 0
    for image_id in "ab":
        (desk.cams / f"{image_id}.npz").write_bytes((desk.root / f"plain/{image_id}.npz").read_bytes())
        forget(desk.cams / f"{image_id}.npz")
    for ended in (desk.run("eval_cam"), desk.run("eval_cam_with_crf", "--eval_only")):
        assert ended.code == (0 if method == "clip-es" else 2), ended.err
        assert method == "clip-es" or "hold maps of kind cam and logit" in ended.err


@pytest.mark.parametrize("name", ["eval_cam_with_crf", "scripts.run"])
def test_the_pixel_limit_reaches_the_crf(desk: Desk, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.stages import crf as stage_crf

    sizes: list[int] = []

    def crf(image: np.ndarray, probs: np.ndarray, *_: Any) -> np.ndarray:
        sizes.append(image.shape[0] * image.shape[1])
        return probs / probs.sum(axis=0)

    monkeypatch.setattr(stage_crf, "dense_crf", crf)
    assert desk.run("generate_cams").code == 0
    limit = ("--max_pixels", 300)
    ended = straight(desk, *limit) if name == "scripts.run" else desk.run(name, *limit)
    assert ended.code == 0 and "3 images: worked on at a smaller size (--max_pixels)" in ended.out
    assert len(sizes) == 3 and max(sizes) <= 300


def test_shards_write_the_bytes_of_one_run(desk: Desk, quick_crf: None) -> None:
    """And a record each; images that fail before the list is dealt out are told by the first alone."""
    desk.xml("c").unlink()
    runs = {"generate_cams": desk.cams, "eval_cam_with_crf": desk.masks, "scripts.run": desk.root / "run"}
    for name, folder in runs.items():
        road = straight if name == "scripts.run" else lambda desk, *more, name=name: desk.run(name, *more)
        assert road(desk).code == 3
        whole = made(folder)
        assert json.loads(whole.pop("failures.jsonl").splitlines()[0])["id"] == "c"
        for path in folder.iterdir():
            path.unlink()
        codes = sorted(road(desk, "--shard", f"{index}/2").code for index in (1, 0))
        found = made(folder)
        records = {name for name in tree(folder) if name.startswith(("run", "failures"))}
        assert codes == [0, 3] and records & {"run.json", "run-1-of-2.json"} == {"run.json", "run-1-of-2.json"}
        failures = [name for name in records if name.startswith("failures")]
        assert len(failures) == 1 and failures[0] in ("failures-0-of-2.jsonl", "failures-1-of-2.jsonl")
        assert {name: data for name, data in found.items() if name not in records} == whole
        assert road(desk).code == 3 and {*tree(folder)} == {*whole, "run.json", "failures.jsonl"}


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


@pytest.mark.parametrize("name", [*COMMANDS, "scripts.run", "scripts.segment", "scripts.tag_images"])
def test_help_needs_no_torch(name: str) -> None:
    ended = process("-m", name, "--help", python=("-X", "importtime"))
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
