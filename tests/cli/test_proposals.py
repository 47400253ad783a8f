"""Masks that vote, by the commands: against loops over pixels, on every road, and with masks that are not fit."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from dataset.mask_png import mask_made_by, read_mask
from pipeline.steps.regions import RunLengths
from report.curve import Curve, crf_job, mask_record, run
from report.measure import ReportJob
from tests.made import made
from tests.support import Command
from toyworld.layout import write_scene
from toyworld.scenes import draw_scene
from toyworld.spec import SPEC
from zsseg.proposals.files import read_regions, write_regions

SCENES = (5, 8)
FELZENSZWALB: list[object] = ["--votes", "felzenszwalb", "--fz_min_size", 40]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of the toy world. Not to be written to."""
    root = tmp_path_factory.mktemp("toy")
    for index in SCENES:
        write_scene(root, f"t{index}", draw_scene(2025, index))
    split = root / "ImageSets" / "Segmentation" / "train.txt"
    split.parent.mkdir(parents=True)
    split.write_text("".join(f"t{index}\n" for index in SCENES))
    return root


@pytest.fixture(scope="module")
def cams(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their CAM files, copied by those who keep masks beside them."""
    import generate_cams

    folder = tmp_path_factory.mktemp("road") / "cams"
    assert generate_cams.main(["--img_root", str(toy), "--cam_out_dir", str(folder), "--device", "cpu"]) == 0
    return folder


@pytest.fixture
def refined(command: Command, toy: Path, cams: Path, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Runs eval_cam_with_crf.py with such a --refine, into a folder of this name; returns how it ended."""

    def run(refine: str, *more: object, out: str = ""):  # type: ignore[no-untyped-def]
        options: list[object] = ["--img_root", toy, "--cam_out_dir", cams, "--device", "cpu", "--refine", refine]
        return command("eval_cam_with_crf", *options, "--pseudo_mask_save_path", tmp_path / (out or refine), *more)

    return run


def kept(cams: Path) -> Path:
    """The folder of masks beside the CAM files."""
    (folder,) = (cams.parent / "regions").glob("felzenszwalb-*")
    return folder


def by_majority(labels: np.ndarray, mask: np.ndarray, regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each region with its most frequent label; in the mask 255, where more than half of it was."""
    labels, mask = labels.copy(), mask.copy()
    for number in np.unique(regions):
        inside = regions == number
        counts = Counter(labels[inside].tolist())
        label = max(sorted(counts), key=lambda value: counts[value])
        unsure = 2 * np.count_nonzero(mask[inside] == 255) > np.count_nonzero(inside)
        labels[inside], mask[inside] = label, 255 if unsure else label
    return labels, mask


@pytest.mark.slow
def test_masks_and_scores_after_a_vote(refined, cams: Path, toy: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert refined("crf").code == refined("crf", "--confidence", 0, out="sure").code == 0
    scores = tmp_path / "scores.json"
    ended = refined("crf,sam", *FELZENSZWALB, "--json", scores)
    assert ended.code == 0 and "then votes" in ended.out and "2 masks written" in ended.out, ended.err
    regions = kept(cams)
    right = counted = changed = 0
    for index in SCENES:
        name = f"t{index}.png"
        before = read_mask(tmp_path / "sure" / name)
        labels, mask = by_majority(
            before, read_mask(tmp_path / "crf" / name), np.asarray(Image.open(regions / name)).astype(int)
        )
        assert np.array_equal(read_mask(tmp_path / "crf,sam" / name), mask)
        truth = read_mask(toy / "SegmentationClass" / name)
        right, counted = right + (labels == truth)[truth < 255].sum(), counted + (truth < 255).sum()
        changed += (before != labels).sum()
        record = json.loads(mask_made_by(tmp_path / "crf,sam" / name))
        assert record["refine"] == "crf,sam" and record["votes"]["min_size"] == 40 and record["voters"]
    assert changed > 20
    found = json.loads(scores.read_text())
    assert found["pixel_accuracy"] == pytest.approx(right / counted) and found["settings"]["refine"] == "crf,sam"
    run = json.loads((tmp_path / "crf,sam" / "run.json").read_text())
    assert run["settings"]["vote_rule"] == "majority" and run["settings"]["votes"]["proposals"] == "felzenszwalb"
    only = refined("crf,sam", *FELZENSZWALB, "--eval_only", "--json", tmp_path / "only.json", out="absent")
    assert only.code == 0 and not (tmp_path / "absent").exists()
    assert json.loads((tmp_path / "only.json").read_text())["miou"] == found["miou"]


@pytest.mark.slow
def test_every_road_writes_the_same_and_keeps_it(  # type: ignore[no-untyped-def]
    command: Command, refined, toy: Path, cams: Path, tmp_path: Path
) -> None:
    options = [*FELZENSZWALB, "--vote_rule", "max-iou-imp"]
    assert refined("pamr,sam", *options).code == 0
    before, (name, *_) = made(tmp_path / "pamr,sam"), sorted(made(tmp_path / "pamr,sam"))
    assert "0 masks written, 2 already there" in refined("pamr,sam", *options).out
    changed = refined("pamr,sam", *options, "--fz_scale", 5, "--vote_dir", kept(cams), out="changed")
    assert changed.code == 2 and "scale 100.0 (now 5.0); pass another --vote_dir" in changed.err
    other = refined("pamr,sam", *FELZENSZWALB)
    assert other.code == 2 and "vote_rule max-iou-imp (now majority)" in other.err
    data: list[object] = ["--img_root", toy, "--device", "cpu", "--refine", "pamr,sam", *options]
    ended = command("scripts.run", *data, "--pseudo_mask_save_path", tmp_path / "run")
    assert ended.code == 0 and made(tmp_path / "run") == before, ended.err
    photo = next((toy / "JPEGImages").glob(f"{Path(name).stem}.*"))
    annotation = (toy / "Annotations" / f"{photo.stem}.xml").read_text()
    labels = sorted({part.split("<")[0] for part in annotation.split("<name>")[1:]})
    command_line: list[object] = [photo, "--dataset", "toyworld", "--labels", *labels, "--out", tmp_path / "one"]
    ended = command("scripts.segment", *command_line, *data[2:], "--max_side", 1024)
    assert ended.code == 0, ended.err
    assert np.array_equal(read_mask(tmp_path / "one" / f"{photo.stem}_mask.png"), read_mask(tmp_path / "run" / name))


@pytest.mark.slow
def test_in_groups_on_a_device_and_before_the_crf(refined, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The CRF of torch, which takes images together, with a vote before it or behind PAMR and it."""
    for refine in ("sam,crf", "pamr,crf,sam"):
        assert refined(refine, *FELZENSZWALB).code == 0
        ended = refined(refine, *FELZENSZWALB, "--crf", "torch", out=f"torch {refine}")
        assert ended.code == 0 and "2 masks written" in ended.out, ended.err
        for index in SCENES:
            masks = (read_mask(tmp_path / name / f"t{index}.png") for name in (refine, f"torch {refine}"))
            assert (next(masks) == next(masks)).mean() > 0.99
    crf, before = (read_mask(tmp_path / name / "t5.png") for name in ("pamr,crf,sam", "sam,crf"))
    assert not np.array_equal(crf, before)


@pytest.mark.slow  # to import the network takes seconds
def test_segment_anything_votes_and_answers(  # type: ignore[no-untyped-def]
    refined, cams: Path, tmp_path: Path
) -> None:
    """A random one: its masks are made once and kept, its answers are asked for again."""
    from tests.small_sam import save_sam

    torch.manual_seed(0)
    save_sam(tmp_path / "net")
    options: list[object] = ["--sam", tmp_path / "net", "--sam_points", 4, "--sam_quality", 0, "--sam_stability", 0]
    ended = refined("sam", *options)
    assert ended.code == 0, ended.err
    files = sorted(next((cams.parent / "regions").glob("sam-*")).iterdir())
    assert [file.name for file in files] == ["t5.npz", "t8.npz"] and len(read_regions(files[0]))
    before = [file.stat().st_mtime_ns for file in files]
    assert refined("sam", *options, "--vote_rule", "max-iou", out="other").code == 0
    assert [file.stat().st_mtime_ns for file in files] == before
    asks: list[object] = ["--sam", tmp_path / "net", "--prompt_area", 20, "--prompt_quality", 0]
    ended = refined("prompts", *asks)
    assert ended.code == 0 and "refine  prompts" in ended.out, ended.err
    record = json.loads(mask_made_by(tmp_path / "prompts" / "t5.png"))
    assert record["prompts_area"] == 20 and record["prompts_identity"] and refined("none").code == 0
    changed = [read_mask(tmp_path / name / "t5.png") for name in ("prompts", "none")]
    assert not np.array_equal(*changed)
    assert "2 already there" in refined("prompts", *asks).out
    other = refined("prompts", *asks[:-1], 0.5)
    assert other.code == 2 and "prompts_quality 0.0 (now 0.5)" in other.err


def test_the_curve_of_thresholds_counts_votes(  # type: ignore[no-untyped-def]
    refined, cams: Path, toy: Path, tmp_path: Path
) -> None:
    """At every threshold: the pixels of the masks that are written with it."""
    wanted = {}
    for threshold in (0.0, 0.9, 0.99):
        assert refined("crf,sam", *FELZENSZWALB, "--confidence", threshold, out=f"{threshold}").code == 0
        kept_pixels, right, scored = 0, 0, 0
        for index in SCENES:
            mask, truth = (read_mask(folder / f"t{index}.png") for folder in (tmp_path / f"{threshold}", truths(toy)))
            sure = (mask != 255) & (truth != 255)
            kept_pixels, right = kept_pixels + sure.sum(), right + (mask == truth)[sure].sum()
            scored += (truth != 255).sum()
        wanted[threshold] = (kept_pixels / scored, right / kept_pixels)
    job = ReportJob(tmp_path / "0.9", toy / "JPEGImages", cams, truths(toy), True, SPEC)
    record = mask_record(tmp_path / "0.9" / "t5.png")
    with pytest.raises(UserError, match="give their folder as --vote_dir"):
        crf_job(job, record)
    curve = Curve(0.9)
    ids = [f"t{index}" for index in SCENES]
    assert {one.status for one in run(job, crf_job(job, record, kept(cams)), ids, curve, 1)} == {"made"}
    found = {point.threshold: point.shares for point in curve.points()}
    assert {threshold: found[threshold] for threshold in wanted} == {
        threshold: pytest.approx(shares) for threshold, shares in wanted.items()
    }


def truths(root: Path) -> Path:
    return root / "SegmentationClass"


def test_masks_of_anybody(refined, tmp_path: Path, toy: Path) -> None:  # type: ignore[no-untyped-def]
    """One photo's masks overlap and one is empty; the other's are missing, of another size, damaged, or none at all."""
    folder, sizes = tmp_path / "theirs", {}
    folder.mkdir()
    ended = refined("sam", "--votes", "folder", "--proposal_dir", folder)
    assert ended.code == 2 and f"error: --proposal_dir {folder}: holds no such file; expected a file of" in ended.err
    for index in SCENES:
        with Image.open(next((toy / "JPEGImages").glob(f"t{index}.*"))) as image:
            sizes[index] = (image.height, image.width)
    theirs, size = folder / "t8.npy", sizes[8]
    np.save(folder / "t5.npy", np.random.default_rng(0).random((3, *sizes[5])) < np.array([0.5, 0.5, 0])[:, None, None])
    bad = {
        "no regions for this photo; expected t8.png, .npy": lambda: None,
        f"masks of a photo of {size[0] - 1} x {size[1]} pixels": lambda: np.save(
            theirs, np.ones((2, size[0] - 1, size[1])) > 0
        ),
        "cannot be read as an array": lambda: theirs.write_bytes(b"no array"),
    }
    for told, write in bad.items():
        write()
        ended = refined("sam", "--votes", "folder", "--proposal_dir", folder)
        assert ended.code == 3 and told in ended.err and "t8" in ended.err, ended.err
    assert (tmp_path / "sam" / "t5.png").is_file() and not (tmp_path / "sam" / "t8.png").exists()
    theirs.unlink()
    write_regions(folder / "t8.npz", RunLengths(size, ()), {})
    ended = refined("sam", "--votes", "folder", "--proposal_dir", folder)
    assert ended.code == 0 and "1 image: no mask that could vote (t8)" in ended.out
    assert refined("none").code == 0
    voted, plain = (
        {index: read_mask(tmp_path / name / f"t{index}.png") for index in SCENES} for name in ("sam", "none")
    )
    assert np.array_equal(voted[8], plain[8]) and not np.array_equal(voted[5], plain[5])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--refine", "sam,sam"], "expected crf, pamr, sam, prompts, or several of them in an order such as crf,sam"),
        (["--refine", "crf,prompts"], "--sam is needed: a folder with config.json"),
        (["--refine", "crf,prompts", "--sam", "x", "--prompt_score", "-1"], "-1: expected a number from 0 to 1"),
        (["--refine", "crf,sam", "--prompt_area", "5"], "--prompt_area goes with --refine crf,prompts"),
        (["--refine", "crf", "--vote_rule", "majority"], "--vote_rule goes with --refine crf,sam"),
        (["--refine", "crf,sam"], "--sam is needed: a folder with config.json"),
        (["--refine", "crf,sam", "--sam", "x", "--sam_quality", "2"], "2: expected a number from 0 to 1"),
        (["--refine", "crf,sam", "--votes", "folder"], "--proposal_dir is needed"),
        (["--refine", "crf,sam", "--votes", "folder", "--vote_dir", "x"], "give their folder as --proposal_dir x"),
        (["--refine", "crf,sam", *map(str, FELZENSZWALB), "--engine", "ray"], "workers do not see the masks"),
    ],
)
def test_mistakes_are_one_line(options: list[str], told: str, command: Command, toy: Path, cams: Path) -> None:
    ended = command("eval_cam_with_crf", "--img_root", toy, "--cam_out_dir", cams, "--eval_only", *options)
    assert ended.code == 2 and told in ended.err and len(ended.err.strip().splitlines()) == 1
