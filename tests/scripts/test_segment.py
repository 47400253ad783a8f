"""scripts/segment.py: the stages' own bytes, labels and photos of every kind, and a line for each mistake."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.lookup import dataset_spec
from common.errors import UserError
from dataset.mask_png import read_mask
from pipeline.steps.maps import resize_maps
from pipeline.steps.masks import labels_of, smooth_labels
from report.photo_sheet import PhotoRoad, photo_sheet, shares
from report.pictures import label_colours
from scripts import segment
from tests.support import Command, photo


@pytest.fixture
def shot(tmp_path: Path) -> Path:
    path = tmp_path / "shot.png"
    Image.fromarray(photo((33, 47), 3)).save(path)
    return path


def written(folder: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(folder / name))


# --- the pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("crf_image", ["rgb", "reference"])
def test_the_mask_is_the_one_that_the_stages_write(
    crf_image: str, command: Command, world: Path, weights: Path, tmp_path: Path
) -> None:
    cams, masks, out = tmp_path / "cams", tmp_path / "masks", tmp_path / "out"
    data = ("--dataset", "voc12", "--img_root", world, "--cam_out_dir", cams)
    assert command("generate_cams", *data, "--model", weights, "--batch_size", 1).code == 0
    crf = ("--crf_image", crf_image, "--confidence", 0.6)
    assert command("eval_cam_with_crf", *data, "--pseudo_mask_save_path", masks, *crf).code == 0
    images = world / "JPEGImages"
    names = ("--labels", "person", "aeroplane", "dog", "--dataset", "voc12", "--model", weights)
    ended = command("scripts.segment", images / "b.jpg", *names, "--out", out, *crf)
    assert ended.code == 0 and "b.jpg" in ended.out
    mask = read_mask(out / "b_mask.png")
    assert Image.open(out / "b_mask.png").mode == "L"
    assert np.array_equal(mask, read_mask(masks / "b.png")) and len(np.unique(mask)) > 2


@pytest.mark.parametrize("name", ["voc20", "context59", "cocostuff", "ade20k", "cityscapes"])
def test_classes_of_a_data_set_without_background_are_mask_values(
    name: str, command: Command, shot: Path, weights: Path, tmp_path: Path
) -> None:
    """The class indices themselves, as the data set counts; dog and car of voc20 are 11 and 6."""
    classes = [dataset_spec(name).classes[index] for index in (6, 11)]
    options = ("--dataset", name, "--model", weights, "--confidence", 0.5, "--out", tmp_path / "out")
    ended = command("scripts.segment", shot, "--labels", *reversed(classes), *options)
    assert ended.code == 0, ended.err
    mask = written(tmp_path / "out", "shot_mask.png")
    assert set(np.unique(mask)) <= {6, 11, 255} and set(np.unique(mask)) & {6, 11}
    (line,) = (line for line in ended.out.splitlines() if line.startswith(str(shot)))
    assert "background" not in line
    for value, label in zip((6, 11), classes):
        share = 100 * float((mask == value).mean())
        assert (f"{label} {share:.1f} %" in line) == (share > 0)


def test_overlay_and_sheet_go_with_the_mask(command: Command, shot: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = command(
        "scripts.segment", shot, "--labels", "dog,cat", "--dataset", "voc12", "--model", weights, "--out", out
    )
    assert ended.code == 0 and sorted(path.name for path in out.iterdir()) == [
        "shot_mask.png",
        "shot_overlay.png",
        "shot_steps.png",
    ]
    mask, rgb = written(out, "shot_mask.png"), np.asarray(Image.open(shot)).astype(int)
    overlay = written(out, "shot_overlay.png")
    assert overlay.shape == (33, 47, 3) and set(np.unique(mask)) <= {0, 8, 12, 255}
    assert np.array_equal(overlay[mask == 0], rgb[mask == 0])
    for label in set(np.unique(mask)) - {0}:
        tinted = 0.45 * rgb[mask == label] + 0.55 * label_colours()[label]
        assert np.abs(overlay[mask == label] - tinted).max() <= 1
    assert written(out, "shot_steps.png").shape[1] > 4 * 150  # photo, two classes, mask
    assert json.loads(Image.open(out / "shot_mask.png").info["made_by"])["confidence"] == 0.95


def test_a_large_photo_is_worked_on_small_and_its_mask_is_large(
    command: Command, weights: Path, tmp_path: Path
) -> None:
    large = Image.fromarray(photo((33, 47), 3)).resize((470, 330), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.png")
    words = ("--labels", "dog", "--dataset", "voc12", "--model", weights, "--confidence", 0, "--out", tmp_path)
    assert command("scripts.segment", tmp_path / "large.png", *words, "--max_side", 47).code == 0
    large.resize((47, 33), Image.Resampling.BOX).save(tmp_path / "little.png")
    assert command("scripts.segment", tmp_path / "little.png", *words).code == 0
    mask, little = written(tmp_path, "large_mask.png"), written(tmp_path, "little_mask.png")
    assert mask.shape == (330, 470) and little.shape == (33, 47)
    centres = mask[5::10, 5::10]
    assert 0 < little.mean() < 12 and (centres == little).mean() > 0.95


def test_the_shrunk_size_and_the_pixel_limit_reach_the_crf(
    command: Command, shot: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.stages import crf as stage_crf

    sizes, crf = [], stage_crf.dense_crf
    monkeypatch.setattr(stage_crf, "dense_crf", lambda image, *rest: sizes.append(image.shape) or crf(image, *rest))
    words = ("--labels", "dog", "--dataset", "voc12", "--model", weights, "--out", tmp_path / "out")
    for more in ((), ("--max_side", 24), ("--max_pixels", 400)):
        assert command("scripts.segment", shot, *words, *more).code == 0
        assert written(tmp_path / "out", "shot_mask.png").shape == (33, 47)
    assert sizes[:2] == [(33, 47, 3), (17, 24, 3)] and sizes[2][0] * sizes[2][1] <= 400


def test_labels_at_size_are_the_argmax_of_the_scaled_probabilities() -> None:
    probabilities = np.random.default_rng(0).random((4, 6, 5), np.float32)
    probabilities[2, 2:4] = probabilities[1, 2:4] = 2  # ties go to the first, as argmax has it
    for size in ((6, 5), (17, 23)):
        for keys, background in (([7, 0, 3], True), ([7, 0, 3, 5], False)):
            found, highest = smooth_labels(probabilities, np.array(keys), size, background)
            scaled = resize_maps(probabilities, size)
            assert np.array_equal(found, labels_of(scaled, np.array(keys), background))
            assert np.array_equal(highest, scaled.max(axis=0))


def test_an_upright_copy_gives_the_same(command: Command, shot: Path, weights: Path, tmp_path: Path) -> None:
    """EXIF orientation 6: the file lies on its side."""
    turned = Image.open(shot).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    words = ("--labels", "dog", "--dataset", "voc12", "--model", weights, "--out", tmp_path / "out")
    assert command("scripts.segment", shot, tmp_path / "turned.png", *words).code == 0
    assert np.array_equal(written(tmp_path / "out", "shot_mask.png"), written(tmp_path / "out", "turned_mask.png"))


# --- the sheet ------------------------------------------------------------------------------------


def road(classes: int) -> PhotoRoad:
    rng = np.random.default_rng(0)
    mask = rng.choice(np.array([0, *range(1, classes + 1), 255], np.uint8), (20, 30))
    maps = rng.random((classes, 20, 30), np.float32)
    return PhotoRoad(photo((20, 30), 1), mask, np.arange(classes), maps, maps, [])


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_a_sheet_has_a_column_a_class(classes: int) -> None:
    names = ["background", *(f"a rather long class name, number {index}, that is cut" for index in range(classes))]
    one = photo_sheet(road(1), names)
    sheet = photo_sheet(road(classes), names)
    assert sheet.height == one.height and sheet.width - one.width == (classes - 1) * (one.width - 8) // 3


def test_shares_are_counted_and_255_comes_last() -> None:
    mask = np.array([[0, 0, 2], [255, 255, 255], [2, 2, 2], [1, 0, 0]], np.uint8)
    found = shares(mask, ["background", "cat", "dog"])
    assert [(label, name) for label, name, _ in found] == [
        (0, "background"),
        (2, "dog"),
        (1, "cat"),
        (255, "not sure (255)"),
    ]
    assert [share for _, _, share in found] == pytest.approx([4 / 12, 4 / 12, 1 / 12, 3 / 12])


# --- labels ---------------------------------------------------------------------------------------


def test_labels_as_typed() -> None:
    for given, wanted in (
        (None, None),
        (["clip"], None),
        (["dog", "cat", "dog"], ["dog", "cat"]),
        (["dog,cat", "a bird "], ["dog", "cat", "a bird"]),
    ):
        assert segment.read_names(given) == wanted
    for given in ([""], [","], ["clip", "dog"]):
        with pytest.raises(UserError, match="--labels"):
            segment.read_names(given)


def test_any_word_is_a_class_with_an_own_model(command: Command, shot: Path, weights: Path, tmp_path: Path) -> None:
    words = ("--labels", "golden retriever", "tree", "--model", weights, "--confidence", 0, "--out", tmp_path)
    ended = command("scripts.segment", shot, *words)
    assert ended.code == 0
    assert set(np.unique(written(tmp_path, "shot_mask.png"))) <= {0, 1, 2}
    spec = segment.spec_of_words(["golden retriever", "tree"])
    assert spec.classes == ("golden retriever", "tree") and spec.prompts == (("golden retriever",), ("tree",))
    assert "tree" not in spec.background_prompts and len(spec.background_prompts) == 24


def test_a_classes_file_gives_names_and_prompts(command: Command, shot: Path, weights: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("pet: dog; cat\nvehicle: car\n[background]\nsky\n")
    words = ("--classes", classes, "--model", weights, "--confidence", 0, "--out", tmp_path)
    ended = command("scripts.segment", shot, "--labels", "vehicle", *words)
    assert ended.code == 0 and set(np.unique(written(tmp_path, "shot_mask.png"))) <= {0, 2}


def test_without_labels_clip_supplies_them(
    command: Command, shot: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("dog\ncat\ncar\n")
    words = ("--classes", classes, "--model", weights, "--confidence", 0)
    plain = ("--templates", "dataset")  # of TagCLIP
    asked = command("scripts.segment", shot, *words, *plain, "--labels", "clip", "--out", tmp_path / "asked")
    silent = command("scripts.segment", shot, *words, *plain, "--out", tmp_path / "silent")
    assert asked.code == silent.code == 0 and "labels by CLIP: " in silent.out
    names = silent.out.split("labels by CLIP: ")[1].split(")")[0].split(", ")
    given = command(
        "scripts.segment", shot, *words, "--labels", *[name.split()[0] for name in names], "--out", tmp_path
    )
    assert given.code == 0 and "labels by CLIP" not in given.out
    mask = written(tmp_path, "shot_mask.png")
    for folder in ("asked", "silent"):
        assert np.array_equal(written(tmp_path / folder, "shot_mask.png"), mask)


# --- mistakes -------------------------------------------------------------------------------------

MISTAKES = {
    "typo": (["--labels", "dgo", "--dataset", "voc12"], "did you mean 'dog'"),
    "foreign": (["--labels", "house", "xylophone"], "not a class of toyworld; expected one of house"),
    "no names": (["--model", "WEIGHTS"], "--labels"),
    "folder without classes": (["--dataset", "folder", "--labels", "dog"], "--classes"),
    "two sets of names": (["--dataset", "voc12", "--classes", "HERE/c.txt", "--labels", "dog"], "--classes"),
    "no classes file": (["--classes", "HERE/none.txt", "--labels", "dog"], "none.txt"),
    "method": (["--labels", "dog", "--dataset", "voc12", "--method", "magic"], "invalid choice: 'magic'"),
    "no such model": (["--labels", "dog", "--model", "HERE/none.pt"], "none.pt"),
    "blocks": (["--model", "WEIGHTS", "--dataset", "voc12", "--tag_blocks", "9"], "blocks 0 to 2"),
    "an option of TagCLIP": (["--labels", "dog", "--tag_votes", "2"], "--tag_votes goes with --labels clip"),
    "scale": (["--labels", "dog", "--scales", "-1"], "positive"),
    "unknown dataset": (["--dataset", "imagenet"], "imagenet"),
    "out is a file": (["--labels", "dog", "--dataset", "voc12", "--out", "HERE/shot.png"], "expected a folder"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, command: Command, shot: Path, weights: Path, tmp_path: Path) -> None:
    options, expected = MISTAKES[name]
    filled = [part.replace("WEIGHTS", str(weights)).replace("HERE", str(tmp_path)) for part in options]
    ended = command("scripts.segment", shot, "--out", tmp_path / "out", *filled)
    assert ended.code == 2 and expected in ended.err
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and not (tmp_path / "out").exists()


def test_an_unreadable_photo_is_listed_and_the_others_are_done(
    command: Command, shot: Path, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(shot.read_bytes()[:60])
    words = ("--labels", "dog", "--dataset", "voc12", "--model", weights, "--out", tmp_path / "out")
    ended = command("scripts.segment", tmp_path / "broken.jpg", tmp_path / "gone.jpg", shot, *words)
    assert ended.code == 3 and "2 images failed" in ended.err and "gone.jpg" in ended.err
    assert {path.name.split("_")[0] for path in (tmp_path / "out").iterdir()} == {"shot"}


def test_no_photo_and_no_other_photos_picture_is_overwritten(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a_mask\.png would overwrite"):
        segment.output_files([tmp_path / "a.jpg", tmp_path / "a_mask.png"], tmp_path)
    with pytest.raises(UserError, match="rename"):
        segment.output_files([Path("one/a.jpg"), Path("two/a.jpg")], tmp_path)
    files = segment.output_files([tmp_path / "a.jpg", tmp_path / "b.jpg"], tmp_path)
    assert files["b"]["overlay"] == tmp_path / "b_overlay.png"


def test_toyworld_names_are_the_default() -> None:
    args = segment.parse(["photo.jpg", "--out", "x"])
    assert segment.choose_spec(args, None).name == segment.choose_spec(args, ["car"]).name == "toyworld"
