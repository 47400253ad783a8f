"""From names and paths to images, masks and labels."""

from pathlib import Path

import pytest

from common.errors import UserError
from common.options import DATASETS
from dataset.lookup import DEFAULT_MODELS, FOLDER, SPECS, dataset_spec, select
from tests.support import annotation


def test_every_data_set_of_the_command_line_has_a_spec_and_a_model() -> None:
    assert set(DATASETS) == {*SPECS, FOLDER} == set(DEFAULT_MODELS)
    for name in SPECS:
        assert dataset_spec(name).name == name


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
