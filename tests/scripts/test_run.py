"""scripts/run.py beside the staged road: the same bytes and scores; what is kept, refused, failed; and mistakes."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.made import made
from tests.support import Command, Desk, Ended, photo, tree
from toyworld.layout import write_scene
from toyworld.scenes import draw_scene

RUN = "scripts.run"
SCENES = (5, 8, 27)  # of the demo's seed: the first and the last share a patch grid, the second does not


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes of the toy world. Not to be written to."""
    root = tmp_path_factory.mktemp("toy")
    for index in SCENES:
        write_scene(root, f"t{index}", draw_scene(2025, index))
    split = root / "ImageSets" / "Segmentation" / "train.txt"
    split.parent.mkdir(parents=True)
    split.write_text("".join(f"t{index}\n" for index in SCENES))
    return root


def staged(command: Command, out: Path, data: list[object], first: list[object], second: list[object]) -> None:
    """Both stages: CAM files in out/cams, masks in out/masks, scores, where there are any, in out/s.json."""
    cams = ["--cam_out_dir", out / "cams"]
    ended = command("generate_cams", *data, *cams, *first)
    assert ended.code == 0, ended.err
    ended = command("eval_cam_with_crf", *data, *cams, "--pseudo_mask_save_path", out / "masks", *second)
    assert ended.code == 0, ended.err


# --- the same as the staged road, with the toy world's CLIP and the real CRF -----------------------

WAYS: dict[str, tuple[list[object], list[object]]] = {
    "defaults": ([], []),
    "the paper's CRF image": (["--max_side", 128], ["--crf_image", "reference", "--confidence", 0.8, "--palette"]),
    "augmented": (["--flip", "--scales", 0.5, "--batch_size", 3, "--box_threshold", 0.3], ["--cam_type", "highres"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_masks_and_scores_are_those_of_the_staged_road(way: str, command: Command, toy: Path, tmp_path: Path) -> None:
    first, second = WAYS[way]
    data: list[object] = ["--img_root", toy]
    one, two = tmp_path / "s.json", tmp_path / "r.json"
    staged(command, tmp_path, data, [*first, "--device", "cpu"], [*second, "--json", one])
    out = ["--pseudo_mask_save_path", tmp_path / "run", "--json", two]
    ended = command(RUN, *data, "--device", "cpu", *first, *second, *out)
    assert ended.code == 0 and "3 masks written in" in ended.out and not ended.err
    assert made(tmp_path / "run") == made(tmp_path / "masks") and len(made(tmp_path / "run")) == 3
    assert json.loads(two.read_text()) == json.loads(one.read_text())
    assert f"mIoU {100 * json.loads(one.read_text())['miou']:5.1f}" in ended.out


def test_a_continued_run_gives_the_same_bytes(command: Command, toy: Path, tmp_path: Path) -> None:
    """Also where one of a batch is missing; and the staged road takes the masks for its own."""
    masks = tmp_path / "run"
    options = ["--img_root", toy, "--device", "cpu", "--pseudo_mask_save_path", masks]
    assert command(RUN, *options, "--batch_size", 3).code == 0
    before = made(masks)
    (masks / "t27.png").unlink()
    (masks / "t8.png").write_bytes(before["t8.png"][:200])
    written = (masks / "t5.png").stat().st_mtime_ns
    ended = command(RUN, *options, "--batch_size", 3)
    assert ended.code == 0 and "2 masks written, 1 already there" in ended.out and "3 images" in ended.out
    assert made(masks) == before and (masks / "t5.png").stat().st_mtime_ns == written
    staged(command, tmp_path, ["--img_root", toy], ["--device", "cpu"], [*options[-2:]])
    assert made(masks) == before


# --- own data, labels by CLIP ---------------------------------------------------------------------


@pytest.fixture
def own(desk: Desk) -> list[object]:
    """Images in folders with spaces, a class file and labels as CSV."""
    photos, classes, labels = desk.root / "photos", desk.root / "classes.txt", desk.root / "labels.csv"
    for index, name in enumerate(("trip 1/a", "trip 1/b", "c")):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo((24, 33), index)).save(photos / f"{name}.png")
    classes.write_text("dog\ncat: cat; kitten\ncar\n[background]\nsky\n")
    labels.write_text("image,labels\ntrip 1/a.png,dog;cat\ntrip 1/b.png,car\nc.png,cat\n")
    return ["--dataset", "folder", "--img_root", photos, "--classes", classes, "--labels", labels]


def model(desk: Desk) -> list[object]:
    return ["--model", desk.weights, "--device", "cpu"]


def test_own_images_with_labels_as_csv(desk: Desk, own: list[object], quick_crf: None) -> None:
    staged(desk.command, desk.root, own, model(desk), [])
    ended = desk.command(RUN, *own, *model(desk))
    assert ended.code == 0, ended.err
    masks = made(desk.root / "output/folder/masks")
    assert masks == made(desk.masks) and masks.keys() == {"trip 1/a.png", "trip 1/b.png", "c.png"}


def test_labels_by_clip(desk: Desk, own: list[object], quick_crf: None) -> None:
    """Those of generate_cams.py, kept beside the masks; an image that cannot be tagged fails alone."""
    by_clip, tags = [*own[:-1], "clip"], ["--templates", "dataset", "--tag_threshold", 0.3]
    (desk.root / "photos/d.png").write_bytes(b"no image")
    assert desk.command("generate_cams", *by_clip, *model(desk), *tags, "--cam_out_dir", desk.cams).code == 3
    again = ["--cam_out_dir", desk.cams, "--pseudo_mask_save_path", desk.masks]
    assert desk.command("eval_cam_with_crf", *own[:-2], *again).code == 3
    ended = desk.command(RUN, *by_clip, *model(desk), *tags, "--pseudo_mask_save_path", desk.root / "run")
    assert ended.code == 3 and ended.err.startswith("1 image failed:\n  d: ") and "3 masks written" in ended.out
    masks, scored = made(desk.root / "run"), made(desk.masks)
    assert masks.pop("tags.txt") == (desk.cams / "tags.txt").read_bytes()
    assert b'"stage": "tags"' in masks.pop("failures.jsonl") and b'"stage": "crf"' in scored.pop("failures.jsonl")
    assert masks == scored and len(masks) == 3


# --- with the tiny CLIP and a stand-in for the CRF ------------------------------------------------


@pytest.fixture
def run(desk: Desk, quick_crf: None) -> Callable[..., Ended]:
    """The command on the desk's data; masks in desk.masks."""
    data: list[object] = ["--dataset", "voc12", "--img_root", desk.data, "--pseudo_mask_save_path", desk.masks]
    return lambda *more: desk.command(RUN, *data, *model(desk), *more)


def test_nothing_but_masks_is_written(desk: Desk, run: Callable[..., Ended]) -> None:
    before = tree(desk.root)
    ended = run()
    assert ended.code == 0 and not ended.err and "mIoU" not in ended.out
    after = tree(desk.root)
    assert after.keys() - before.keys() == {f"masks/{image_id}.png" for image_id in "abc"} | {"masks/run.json"}
    assert {name: after[name] for name in before} == before


def test_the_toy_world_by_default(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("toyworld.spec.DEMO_COUNT", 1)
    ended = command(RUN)
    assert ended.code == 0 and "mIoU" in ended.out
    assert list(made(tmp_path / "output/toyworld/masks")) == ["toy_2025_0000.png"]


def test_bad_images_fail_alone(desk: Desk, run: Callable[..., Ended]) -> None:
    """One that breaks off, one without annotation; the third is the same as without them."""
    truth = ("--gt_root", desk.data / "SegmentationClass")
    assert run(*truth).code == 0
    before = made(desk.masks)
    for path in desk.masks.iterdir():
        path.unlink()
    desk.image("b").write_bytes(desk.image("b").read_bytes()[:-150])
    desk.xml("c").unlink()
    ended = run(*truth, "--json", desk.root / "s.json")
    lines = ended.err.splitlines()
    assert ended.code == 3 and len(lines) == 3 and lines[0] == "2 images failed:"
    assert "c.xml: no such annotation" in ended.err and "b.jpg: not a readable image" in ended.err
    after = made(desk.masks)
    failures = [json.loads(line) for line in after.pop("failures.jsonl").splitlines()]
    assert after == {"a.png": before["a.png"]} and [failure["id"] for failure in failures] == ["b", "c"]
    assert json.loads((desk.root / "s.json").read_text())["images"] == 1


# --- mistakes -------------------------------------------------------------------------------------

MISTAKES: list[tuple[list[object], str]] = [
    (["--img_root", "nowhere"], r"--img_root nowhere: no such folder; expected"),
    (["--pseudo_mask_save_path", "taken"], "--pseudo_mask_save_path taken: cannot be written to"),
    (["--pseudo_mask_save_path", "taken/masks"], "--pseudo_mask_save_path taken/masks: cannot be written to"),
    (["--gt_root", "nowhere"], "--gt_root nowhere: no such folder"),
    (["--json", "s.json"], r"--json s\.json: there are no scores without ground truth; pass --gt_root"),
    (["--gt_root", "VOC2012/SegmentationClass", "--json", "."], r"--json \.: a folder; expected the name of a file"),
    (["--method", "clip-se"], "--method: invalid choice: 'clip-se'"),
    (["--model", "nowhere.pt"], r"nowhere\.pt: no such weight file"),
    (["--labels", "dgo"], "did you mean 'dog'"),
    (["--dataset", "folder"], "--classes is needed"),
    (["--confidence", "95"], "confidence"),
    (["--cam_out_dir", "cams"], "cam_out_dir"),
]


def test_a_mistake_is_one_line(desk: Desk, run: Callable[..., Ended]) -> None:
    (desk.root / "taken").write_text("")
    before = tree(desk.root)
    for options, words in MISTAKES:
        ended = run(*options)
        assert ended.code == 2 and ended.err.startswith("error: ") and ended.err.count("\n") == 1, ended.err
        assert re.search(words, ended.err), ended.err
        assert tree(desk.root) == before


def test_the_toy_worlds_images_without_truth_are_not_scored(
    command: Command, toy: Path, tmp_path: Path, quick_crf: None
) -> None:
    data = tmp_path / "toy"
    for name, content in tree(toy).items():
        if not name.startswith("SegmentationClass"):
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            (data / name).write_bytes(content)
    options = ["--img_root", data, "--pseudo_mask_save_path", tmp_path / "masks"]
    ended = command(RUN, *options)
    assert ended.code == 0 and "mIoU" not in ended.out and "not scored" in ended.out
    ended = command(RUN, *options, "--json", tmp_path / "s.json")
    assert ended.code == 2 and "there are no scores without ground truth; pass --gt_root DIR too" in ended.err


# --- in a process of its own ----------------------------------------------------------------------


@pytest.mark.slow
def test_reader_processes_change_nothing(command: Command, toy: Path, tmp_path: Path) -> None:
    for readers in (0, 1):
        out = ["--pseudo_mask_save_path", tmp_path / f"readers {readers}"]
        ended = command(RUN, "--img_root", toy, "--device", "cpu", "--batch_size", 3, "--readers", readers, *out)
        assert ended.code == 0, ended.err
    assert made(tmp_path / "readers 0") == made(tmp_path / "readers 1") and len(made(tmp_path / "readers 1")) == 3
