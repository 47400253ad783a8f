"""Masks as people have them: how they are called, and masks that show nothing, by hand and through the commands."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from dataset.mask_folder import MaskFolder, check_masks
from dataset.mask_values import MaskValues
from dataset.spec import DatasetSpec, prompts_with
from tests.support import Command, photo

CLASSES = ("cup", "ball")
SPEC = DatasetSpec("mine", CLASSES, prompts_with(CLASSES, {}), ("sky",), True, 0.4)
DENSE = DatasetSpec("dense", CLASSES, prompts_with(CLASSES, {}), (), False, 0.4)


def put(folder: Path, **masks: list[int]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, values in masks.items():
        Image.fromarray(np.array([values], np.uint8)).save(folder / f"{name}.png")
    return folder


def test_names_of_masks(tmp_path: Path) -> None:
    put(tmp_path, a_mask=[0, 1], b=[0, 2])
    masks = MaskFolder(tmp_path, "_mask.png")
    assert masks.read("a").tolist() == [[0, 1]] and masks.read("b").tolist() == [[0, 2]]
    with pytest.raises(UserError, match=r"a\.png: no such mask; --mask_suffix _mask\.png finds a_mask\.png$"):
        MaskFolder(tmp_path).read("a")
    with pytest.raises(UserError, match=r"c\.png: no such mask$"):
        MaskFolder(tmp_path).read("c")


@pytest.mark.parametrize("suffix", [".bmp", "-seg.tif"])
def test_masks_without_loss_of_other_kinds(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 2]], np.uint8)).save(tmp_path / f"a{suffix}")
    assert MaskFolder(tmp_path, suffix).read("a").tolist() == [[0, 2]]


# the masks, the labels, what is said; None: nothing
MASKS: list[tuple[DatasetSpec, dict[str, list[int]], set[int], str | None]] = [
    (SPEC, {"a": [0, 255], "b": [0, 0]}, set(), "hold 0 and 255 only, .* pass --mask_values 0,255=background,"),
    (SPEC, {"a": [255, 255]}, set(), "every mask is 255 all over"),
    (DENSE, {"a": [255, 255]}, set(), "every mask is 255 all over"),
    (SPEC, {"a": [0, 0]}, {1}, "show the background alone, and images are labelled with ball"),
    (SPEC, {"a": [0, 0]}, set(), None),  # images that show nothing
    (SPEC, {"a": [0, 255], "b": [0, 1]}, {0}, None),
    (
        SPEC,
        {"a": [0, 255], "b": [0, 1]},
        {0, 1},
        r"no mask shows ball, which images are labelled with .*\(.* 0, "
        r"1, 255\)",
    ),
    (DENSE, {"a": [0, 255]}, {0}, None),
    (SPEC, {}, {0}, "none of the files of the 3 images is there, such as a.png; expected a mask PNG an image"),
    (SPEC, {"a_mask": [0, 1]}, {0}, "none of the files .* --mask_suffix _mask.png finds a_mask.png"),
    (SPEC, {"b": [0, 1]}, {0}, None),  # some that are missing are reported one by one
]


@pytest.mark.parametrize(("spec", "masks", "wanted", "message"), MASKS)
def test_masks_that_show_nothing(
    spec: DatasetSpec, masks: dict[str, list[int]], wanted: set[int], message: str | None, tmp_path: Path
) -> None:
    folder = put(tmp_path / "truth", **masks)
    if message is None:
        check_masks(folder, "abc", spec, "--gt_root", wanted)
    else:
        with pytest.raises(UserError, match=rf"--gt_root .*truth: .*{message}"):
            check_masks(folder, "abc", spec, "--gt_root", wanted)


def test_labels_by_clip_are_not_taken_at_their_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_masks(put(tmp_path, a=[0, 1]), "a", SPEC, "--gt_root", {0, 1}, sure=False)
    assert capsys.readouterr().err.startswith("warning: --gt_root")


def test_255_that_is_said_to_be_unlabelled_is(tmp_path: Path) -> None:
    check_masks(MaskFolder(put(tmp_path, a=[0, 255]), values=MaskValues(((0, 0), (255, 255)))), "a", SPEC, "--gt_root")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["0 and 255", "colours", "labels of another class"])
def test_the_commands_say_so_and_take_the_remedy(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "truth", "masks"):
        Path(name).mkdir()
    Path("classes.txt").write_text("cup\nball\n")
    cup = np.zeros((24, 32), np.uint8)
    cup[4:14, 6:20] = 1
    drawn = {
        "0 and 255": cup * 255,
        "colours": np.stack([cup * 128, cup * 0, cup * 0], -1),
        "labels of another class": cup,
    }
    for seed, name in enumerate("ab"):
        Image.fromarray(photo((24, 32), seed)).save(f"photos/{name}.png")
        Image.fromarray(cup).save(f"masks/{name}.png")
        Image.fromarray(drawn[form]).save(f"truth/{name}_mask.png")
    data = ["--dataset", "folder", "--img_root", "photos", "--classes", "classes.txt", "--mask_suffix", "_mask.png"]
    remedy = {"0 and 255": ("255=cup", "0=0"), "colours": ("voc",)}.get(form)
    label = "cup" if remedy else "ball"
    scored = ["--cam_type", "png", "--cam_out_dir", "masks", "--gt_root", "truth", "--json", "scores.json"]
    trained = ["--masks", "truth", "--arch", "segformer-tiny", "--crop", "32", "--batch_size", "2", "--max_iters", "1"]
    for argv in (["eval_cam", *data, *scored], ["scripts.train_segmentor", *data, *trained, "--out", "out"]):
        ended = command(*argv, "--labels", label)
        said = {"0 and 255": "--mask_values 0,255=background,", "colours": "--mask_values maps colours to classes"}
        assert ended.code in (2, 3) and said.get(form, "no mask shows ball") in ended.err, ended.err
        assert not Path("scores.json").exists() and not Path("out").exists()
        more = ("--labels", label, "--mask_values", *remedy) if remedy else ()
        ended = command(*argv, *more)
        assert ended.code == 0, ended.err
        Path("scores.json").unlink(missing_ok=True)
