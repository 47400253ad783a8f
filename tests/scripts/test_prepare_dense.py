"""scripts/prepare_dense.py: annotation files as distributed, made small, to masks, a split file and labels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from dataset.mask_png import read_mask
from tests.support import Command, Ended, tree


def put(path: Path, values: object, mode: str = "L") -> Path:
    """A PNG of raw values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.array(values, np.uint8))
    if mode == "P":
        picture = picture.convert("P")
        picture.putpalette(list(range(256)) * 3)
    picture.save(path)
    return path


def put_mat(path: Path, values: object, kind: str = "uint16") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"LabelMap": np.array(values, kind)}, do_compression=True)


class Desk:
    """A folder of annotations, and the command with all of its outputs."""

    def __init__(self, root: Path, command: Command) -> None:
        self.raw, self.masks, self.root, self.command = root / "raw", root / "masks", root, command

    def prepare(self, name: str, *more: object) -> Ended:
        outputs = ("--masks_out", self.masks, "--split_out", self.root / "split.txt")
        outputs = (*outputs, "--labels_out", self.root / "labels.txt")
        return self.command("scripts.prepare_dense", name, "--raw", self.raw, *outputs, *more)

    def mask(self, image_id: str) -> list[list[int]]:
        return read_mask(self.masks / f"{image_id}.png").tolist()

    def split(self) -> str:
        return (self.root / "split.txt").read_text()

    def labels(self) -> str:
        return (self.root / "labels.txt").read_text()


@pytest.fixture
def desk(tmp_path: Path, command: Command) -> Desk:
    return Desk(tmp_path, command)


# --- what each data set distributes ------------------------------------------------------------------


def test_voc_palettes(desk: Desk) -> None:
    put(desk.raw / "2007_000032.png", [[0, 1, 20], [255, 15, 0]], mode="P")
    put(desk.raw / "2007_000039.png", [[0, 0, 255]], mode="P")  # shows no class
    ended = desk.prepare("voc20")
    assert ended.code == 0, ended.err
    assert desk.mask("2007_000032") == [[255, 0, 19], [255, 14, 255]] and desk.mask("2007_000039") == [[255] * 3]
    assert desk.split() == "2007_000032\n" and desk.labels() == "2007_000032 0 14 19\n"
    assert "1 show none of the classes" in ended.out and "2 masks written" in ended.out
    assert "expected train 1464 or" in ended.out and "not a whole split" in ended.out
    with Image.open(desk.masks / "2007_000032.png") as written:
        assert written.mode == "L"


@pytest.mark.parametrize("kind", ["uint16", "int32", "float64"])
def test_context_in_matlab_files(desk: Desk, kind: str) -> None:
    """Of the 459 labels the 59 (2 aeroplane, 9 bag, 458 wood); the others, and 0, are background."""
    put_mat(desk.raw / "2008_000002.mat", [[0, 2, 9], [458, 459, 1]], kind)
    ended = desk.prepare("context59")
    assert ended.code == 0, ended.err
    assert desk.mask("2008_000002") == [[255, 0, 1], [58, 255, 255]]
    assert desk.labels() == "2008_000002 0 1 58\n"


def test_what_has_a_background_counts_from_it_on(desk: Desk) -> None:
    """Images of background alone are scored, and have no labels."""
    put_mat(desk.raw / "2008_000002.mat", [[0, 2, 9], [458, 459, 1]])
    put_mat(desk.raw / "2008_000003.mat", [[0, 459]])
    assert desk.prepare("context60").code == 0
    assert desk.mask("2008_000002") == [[0, 1, 2], [59, 0, 0]] and desk.mask("2008_000003") == [[0, 0]]
    assert desk.split() == "2008_000002\n2008_000003\n" and desk.labels() == "2008_000002 0 1 58\n"


def test_things_of_stuff_masks(desk: Desk) -> None:
    put(desk.raw / "000000000139.png", [[0, 12, 89], [91, 181, 255]])  # person, parking meter, toothbrush, no things
    assert desk.prepare("cocoobject").code == 0
    assert desk.mask("000000000139") == [[1, 12, 80], [0, 0, 0]]
    assert desk.labels() == "000000000139 0 11 79\n"


def test_stuff_of_several_folders(desk: Desk) -> None:
    put(desk.raw / "train2017/000000000009.png", [[12, 91, 181], [171, 0, 255]])
    put(desk.raw / "val2017/000000000139.png", [[10, 13, 255]])
    put(desk.raw / "val2017/000000000139_labelTrainIds.png", [[200]])  # of mmsegmentation's converter
    assert desk.prepare("cocostuff").code == 0
    assert desk.mask("train2017/000000000009") == [[11, 80, 170], [160, 0, 255]]
    assert desk.split() == "train2017/000000000009\nval2017/000000000139\n"
    assert desk.labels() == "train2017/000000000009 0 11 80 160 170\nval2017/000000000139 10 12\n"


def test_cityscapes_ids_are_those_of_the_images(desk: Desk) -> None:
    name = desk.raw / "bonn/bonn_000001_000019_gtFine"
    put(Path(f"{name}_labelIds.png"), [[0, 7, 33, 29]])
    for other in ("instanceIds", "color"):
        put(Path(f"{name}_{other}.png"), [[1]])
    assert desk.prepare("cityscapes").code == 0
    assert desk.split() == "bonn/bonn_000001_000019_leftImg8bit\n"
    assert desk.mask("bonn/bonn_000001_000019_leftImg8bit") == [[255, 0, 18, 255]]
    assert len(tree(desk.masks)) == 1


# --- some, again, several ---------------------------------------------------------------------------


def test_only_those_of_a_split(desk: Desk) -> None:
    for key in "abc":
        put(desk.raw / f"{key}.png", [[1]])
    (desk.root / "some.txt").write_text("c\na\ngone\n")
    ended = desk.prepare("ade20k", "--split_file", desk.root / "some.txt")
    assert ended.code == 3 and "gone: no annotation gone.png in --raw" in ended.err
    assert desk.split() == "c\na\n" and sorted(tree(desk.masks)) == ["a.png", "c.png"]


def test_what_is_there_is_kept_and_damage_is_mended(desk: Desk) -> None:
    for key in "abc":
        put(desk.raw / f"{key}.png", [[1, 2, 0]])
    assert desk.prepare("ade20k").code == 0
    wanted, labels = tree(desk.masks), desk.labels()
    (desk.masks / "a.png").unlink()
    (desk.masks / "b.png").write_bytes(wanted["b.png"][:-20])
    untouched = (desk.masks / "c.png").stat().st_mtime_ns
    ended = desk.prepare("ade20k")
    assert ended.code == 0 and "2 masks written, 1 already there" in ended.out
    assert tree(desk.masks) == wanted and desk.labels() == labels
    assert (desk.masks / "c.png").stat().st_mtime_ns == untouched


def test_masks_of_another_data_set_are_not_taken_for_its_own(desk: Desk) -> None:
    put(desk.raw / "a.png", [[1]])
    assert desk.prepare("ade20k").code == 0
    ended = desk.prepare("context59")
    assert ended.code == 2 and "a.png: not made here for context59" in ended.err and len(ended.err.splitlines()) == 1
    assert desk.prepare("context59", "--overwrite").code == 0
    put(desk.masks / "a.png", [[3]])  # a mask that this project did not write
    assert desk.prepare("context59").code == 2 and desk.mask("a") == [[3]]


def test_labels_alone_write_no_masks(desk: Desk) -> None:
    put(desk.raw / "a.png", [[1, 150]])
    ended = desk.command("scripts.prepare_dense", "ade20k", "--raw", desk.raw, "--labels_out", desk.root / "l.txt")
    assert ended.code == 0 and "masks   not written" in ended.out
    assert (desk.root / "l.txt").read_text() == "a 0 149\n" and not desk.masks.exists()


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "strange"),
    [("voc20", [[21]], 21), ("context59", [[1, 60]], 60), ("cocostuff", [[0, 11]], 11), ("ade20k", [[151]], 151),
     ("ade20k", [[255]], 255)],
)  # fmt: skip
def test_a_value_that_the_data_set_does_not_have(desk: Desk, name: str, values: object, strange: int) -> None:
    bad = put(desk.raw / "bad.png", values)
    put(desk.raw / "good.png", [[1]])
    ended = desk.prepare(name)
    assert ended.code == 3 and f"{bad}: holds the value {strange}, which this data set does not have" in ended.err
    assert sorted(tree(desk.masks)) == ["good.png"] and desk.split() == "good\n"


def test_damaged_files_fail_alone(desk: Desk) -> None:
    put_mat(desk.raw / "a.mat", [[2]])
    whole = (desk.raw / "a.mat").read_bytes()
    for number, length in enumerate(range(0, len(whole), 25)):
        (desk.raw / f"cut{number}.mat").write_bytes(whole[:length])
    savemat(desk.raw / "other.mat", {"GTcls": np.zeros((2, 2))})
    for name, values in (("half", [[0.5]]), ("endless", [[np.inf]]), ("none", [[np.nan]]), ("solid", [[[1, 2]]])):
        put_mat(desk.raw / f"{name}.mat", values, "float64")
    ended = desk.prepare("context59")
    assert ended.code == 3 and desk.split() == "a\n"
    assert "other.mat: not a readable .mat file with LabelMap (no LabelMap in it)" in ended.err
    for name in ("half", "endless", "none", "solid"):
        assert f"{name}.mat: LabelMap is no matrix of labels" in ended.err
    assert "Traceback" not in ended.err and "Warning" not in ended.err


def test_wrong_folders(desk: Desk) -> None:
    def refused(message: str, name: str = "voc20", *more: object) -> None:
        ended = desk.prepare(name, *more)
        assert ended.code == 2 and message in ended.err and len(ended.err.splitlines()) == 1, ended.err
        assert not desk.masks.exists() or not tree(desk.masks)

    refused("no such folder; expected the folder SegmentationClass")
    put(desk.raw / "SegmentationObject/a.png", [[1]])  # VOC2012 itself: objects are no classes
    refused("no file *.png in it; expected the folder SegmentationClass")
    refused("no file *.mat or *.png in it", "context59")
    refused("no file *_gtFine_labelIds.png in it; expected gtFine", "cityscapes")
    put(desk.raw / "a.png", [[1]])
    put_mat(desk.raw / "a.mat", [[2]])
    refused("1 *.mat and 1 *.png in it; leave one kind", "context59")
    refused("inside --raw", "voc20", "--masks_out", desk.raw / "masks")
    refused("no such file", "voc20", "--split_file", desk.root / "none.txt")
    (desk.raw / "a b.png").write_bytes((desk.raw / "a.png").read_bytes())
    refused("name 'a b' holds spaces")


def test_nothing_to_do_and_unknown_data_sets(desk: Desk) -> None:
    desk.raw.mkdir()
    ended = desk.command("scripts.prepare_dense", "ade20k", "--raw", desk.raw)
    assert ended.code == 2 and "nothing to do: expected --masks_out DIR" in ended.err
    ended = desk.command("scripts.prepare_dense", "ade", "--raw", desk.raw)
    assert ended.code == 2 and "'context59'" in ended.err


def test_the_mask_of_a_replaced_annotation_is_made_again(desk: Desk) -> None:
    put(desk.raw / "a.png", [[1, 2]])
    put(desk.raw / "b.png", [[3, 4]])
    assert desk.prepare("voc20").code == 0
    put(desk.raw / "b.png", [[5, 6]])
    ended = desk.prepare("voc20")
    assert ended.code == 0 and "1 mask written, 1 already there" in ended.out
    assert desk.mask("b") == [[4, 5]] and "b 4 5" in desk.labels()
