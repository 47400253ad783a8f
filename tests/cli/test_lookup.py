"""From names and paths to images, masks and labels."""

import argparse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.datasets import FOLDER, SPECS
from cli.lookup import dataset_spec, select, select_from
from cli.options import DATASETS, add_data_options
from common.errors import UserError
from tests.support import annotation


def test_every_data_set_of_the_command_line_has_a_spec_and_a_model() -> None:
    assert set(DATASETS) == {*SPECS, FOLDER}
    for name in SPECS:
        assert dataset_spec(name).name == name and dataset_spec(name).clip[0]


def test_a_selection_has_samples_and_masks(world: Path) -> None:
    selection = select("voc12", world / "JPEGImages", None, None)
    samples, failures = selection.samples()
    assert selection.ids == ["a", "b", "c", "d", "e"] and not failures
    assert [sample.labels for sample in samples] == [(0,), (14, 0, 11), (), (7,), (17, 14)]
    assert selection.need_masks() == world / "SegmentationClass" and selection.spec.name == "voc12"


def test_images_are_needed_but_for_scoring(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--img_root is needed with --dataset voc12"):
        select("voc12", None, None, None)
    with pytest.raises(UserError, match="--img_root is needed"):
        select("voc12", None, None, world / "SegmentationClass")
    split = world / "ImageSets/Segmentation/train.txt"
    selection = select("voc12", None, split, world / "SegmentationClass")
    assert selection.need_masks() == world / "SegmentationClass" and len(selection.ids) == 5


def test_a_folder_without_a_list_of_images_is_named_by_its_option(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"--img_root .*empty: no .*train\.txt .*expected JPEGImages of a data set"):
        select("toyworld", tmp_path / "empty", None, None)


@pytest.mark.parametrize("given", [None, "nowhere"])
def test_missing_masks_are_asked_for_by_option(world: Path, given: str | None) -> None:
    (world / "SegmentationClass").rename(world / "elsewhere")
    with pytest.raises(UserError, match="--gt_root"):
        select("voc12", world, None, Path(given) if given else None).need_masks()


def test_toy_images_are_made_once_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import toyworld.layout

    made: list[tuple[int, int]] = []

    def write_dataset(out: Path, seed: int, count: int) -> None:
        made.append((seed, count))
        for folder in ("JPEGImages", "Annotations", "ImageSets/Segmentation"):
            (out / folder).mkdir(parents=True)
        (out / "JPEGImages" / "t.jpg").write_bytes(b"")
        (out / "Annotations" / "t.xml").write_text(annotation(["car"]))
        (out / "ImageSets/Segmentation/train.txt").write_text("t\n")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(toyworld.layout, "write_dataset", write_dataset)
    for _ in range(2):
        (sample,), failures = select("toyworld", None, None, None).samples()
        assert sample.labels == (1,) and not failures
    assert len(made) == 1 and capsys.readouterr().out.count("making") == 1
    assert (tmp_path / "output/toyworld/data/JPEGImages/t.jpg").is_file()


# --- data sets without a background class -----------------------------------------------------------


def test_vocs_own_masks_are_not_those_of_voc_without_background(world: Path, tmp_path: Path) -> None:
    """They count from the background on: taken for ground truth, every class would be another one."""
    selection = select("voc20", world / "JPEGImages", None, None)
    assert [sample.labels for sample in selection.samples()[0]] == [(0,), (14, 0, 11), (), (7,), (17, 14)]
    with pytest.raises(UserError, match=r"--gt_root is needed to score: python -m scripts\.prepare_dense voc20"):
        selection.need_masks()
    assert select("voc20", world / "JPEGImages", None, tmp_path).need_masks() == tmp_path


@pytest.mark.parametrize("name", ["context59", "cocostuff", "ade20k", "cityscapes"])
def test_images_by_path_with_labels_of_a_file(name: str, tmp_path: Path) -> None:
    for key in ("ulm/a", "ulm/b", "bonn/c"):
        (tmp_path / "photos" / key).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "photos" / f"{key}.png")
    (tmp_path / "labels.txt").write_text("ulm/a 0 5 18\nbonn/c 3\n")
    (tmp_path / "split.txt").write_text("ulm/a\nbonn/c\n")
    labels = str(tmp_path / "labels.txt")
    split = select(name, tmp_path / "photos", tmp_path / "split.txt", None, labels=labels)
    samples, problems = split.samples()
    assert [(sample.id, sample.labels) for sample in samples] == [("ulm/a", (0, 5, 18)), ("bonn/c", (3,))]
    assert not problems and samples[0].image == tmp_path / "photos/ulm/a.png"
    every = select(name, tmp_path / "photos", None, None)
    assert every.ids == ["bonn/c", "ulm/a", "ulm/b"]
    with pytest.raises(UserError, match=rf"--labels is needed with --dataset {name}: .*, or `all` for all classes"):
        every.samples()
    with pytest.raises(UserError, match=rf"--gt_root is needed to score: python -m scripts\.prepare_dense {name}"):
        every.need_masks()
    with pytest.raises(UserError, match=f"--img_root is needed with --dataset {name}: the "):
        select(name, None, None, None)
    only_scored = select(name, None, tmp_path / "split.txt", tmp_path)
    assert only_scored.ids == ["ulm/a", "bonn/c"] and only_scored.need_masks() == tmp_path


# --- from the options of a command ----------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three images, labels for two of them and for one that is not there, classes, a split of two."""
    for key in ("a", "trip/b", "c"):
        (tmp_path / "photos" / key).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "photos" / f"{key}.png")
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    (tmp_path / "labels.csv").write_text("image,labels\na,cat\ntrip/b,dog;cat\ngone,dog\n")
    (tmp_path / "split.txt").write_text("trip/b\nc\n")
    return tmp_path / "photos"


def options(*given: object, truth: bool) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_data_options(parser, truth=truth)
    return parser.parse_args([str(part) for part in given])


def own(photos: Path, *more: object, truth: bool = False) -> argparse.Namespace:
    home = photos.parent
    given = ("--dataset", "folder", "--img_root", photos, "--classes", home / "classes.txt")
    return options(*given, "--labels", home / "labels.csv", *more, truth=truth)


def test_every_data_option_of_a_command_counts(world: Path, tmp_path: Path) -> None:
    (tmp_path / "split.txt").write_text("d\nb\n")
    (tmp_path / "truth").mkdir()
    more = ("--split_file", tmp_path / "split.txt", "--gt_root", tmp_path / "truth", "--labels", "cat,dog")
    selection = select_from(options("--dataset", "voc12", "--img_root", world, *more, truth=True))
    assert selection.ids == ["d", "b"] and selection.need_masks() == tmp_path / "truth"
    assert [sample.labels for sample in selection.samples()[0]] == [(7, 11), (7, 11)]


def test_a_command_without_ground_truth_has_no_such_option(world: Path) -> None:
    selection = select_from(options("--dataset", "voc12", "--img_root", world, truth=False))
    assert selection.ids == ["a", "b", "c", "d", "e"] and selection.paths.masks == world / "SegmentationClass"


def test_images_can_be_asked_for(world: Path) -> None:
    split = world / "ImageSets/Segmentation/train.txt"
    args = options("--dataset", "voc12", "--split_file", split, "--gt_root", world / "SegmentationClass", truth=True)
    assert len(select_from(args).ids) == 5
    with pytest.raises(UserError, match="--img_root is needed"):
        select_from(args, images_needed=True)


def test_labels_can_be_passed_over(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert select_from(own(photos), with_labels=False).ids == ["a", "c", "trip/b"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("split", [False, True])
def test_labels_may_come_later(photos: Path, split: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Two steps say and select what one does."""
    (photos / "d.gif").write_bytes(b"")
    args = own(photos, *(("--split_file", photos.parent / "split.txt") if split else ()))
    once = select_from(args)
    said = capsys.readouterr().err
    later = select_from(args, with_labels=False).labelled_by(args.labels)
    assert later == once and capsys.readouterr().err == said
    assert once.ids == (["trip/b"] if split else ["a", "trip/b"])
    assert {key for key, _ in once.problems} == ({"c"} if split else {"c", "gone", "d.gif"})
    assert ("gone (line 4)" in said) is not split and "left out: c" in said
