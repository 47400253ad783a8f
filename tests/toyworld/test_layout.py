"""The data set on disk: repeatable, exact, in the VOC layout."""

import json
from pathlib import Path

import numpy as np
import pytest
from lxml import etree
from PIL import Image

from scripts import make_toyworld
from toyworld.captions import CONCEPTS
from toyworld.layout import write_dataset
from toyworld.scenes import draw_scene
from toyworld.spec import CLASSES, SPEC

COUNT = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy")
    write_dataset(out, seed=5, count=COUNT)
    return out


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_same_seed_same_bytes_whatever_the_count(data: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path, seed=5, count=3)
    again, whole = files_of(tmp_path), files_of(data)
    again.pop("ImageSets/Segmentation/train.txt")
    assert whole["captions.jsonl"].startswith(again.pop("captions.jsonl"))
    assert len(again) == 9
    assert all(whole[name] == content for name, content in again.items())


def test_layout_lists_every_image_once(data: Path) -> None:
    ids = (data / "ImageSets" / "Segmentation" / "train.txt").read_text().split()
    assert len(set(ids)) == len(ids) == COUNT
    for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml"), ("SegmentationClass", "png")):
        assert sorted(path.name for path in (data / folder).iterdir()) == [f"{i}.{suffix}" for i in sorted(ids)]


def test_captions_name_only_what_is_there(data: Path) -> None:
    rows = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
    assert len(rows) == COUNT and all(len(row["captions"]) == 5 for row in rows)
    for index, row in enumerate(rows):
        scene = draw_scene(5, index)
        assert row["image"] == f"toy_5_{index:04d}.jpg"
        named = {name for name in CONCEPTS for caption in row["captions"] if name in caption}
        assert named and named <= {*scene.classes, *scene.backgrounds}


def test_masks_hold_exactly_the_annotated_classes_and_boxes(data: Path) -> None:
    for xml in (data / "Annotations").iterdir():
        mask = np.array(Image.open(data / "SegmentationClass" / f"{xml.stem}.png"))
        image = Image.open(data / "JPEGImages" / f"{xml.stem}.jpg")
        tree = etree.parse(str(xml))
        names = [element.text for element in tree.iterfind("object/name")]
        assert 1 <= len(names) == len(set(names)) <= 3
        assert {0, *(CLASSES.index(name) + 1 for name in names)} == set(np.unique(mask))
        size = tuple(int(tree.findtext(f"size/{side}")) for side in ("width", "height"))
        assert image.size == mask.shape[::-1] == size
        assert mask.shape[0] % 16 and mask.shape[1] % 16
        for item in tree.iterfind("object"):
            xmin, ymin, xmax, ymax = (int(item.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax"))
            own = mask == CLASSES.index(item.findtext("name")) + 1
            assert own[ymin - 1 : ymax, xmin - 1 : xmax].sum() == own.sum() > 0
            assert own[ymin - 1].any() and own[ymax - 1].any() and own[:, xmin - 1].any() and own[:, xmax - 1].any()


def test_masks_carry_the_voc_palette(data: Path) -> None:
    image = Image.open(next((data / "SegmentationClass").iterdir()))
    palette = np.array(image.getpalette()).reshape(-1, 3)
    assert image.mode == "P"
    assert palette[[0, 1, 2, 3, 4, 5, 8, 15]].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128], [64, 0, 0], [192, 128, 128],
    ]  # fmt: skip


def test_command_writes_a_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_toyworld.main(["--out", str(tmp_path / "a"), "--seed", "3", "--count", "1"]) == 0
    assert (tmp_path / "a" / "JPEGImages" / "toy_3_0000.jpg").is_file()
    assert "1 scenes of seed 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "names"),
    [(["--count", "0"], "--count 0"), (["--seed", "-1"], "--seed -1"), (["--out", __file__], "expected a folder")],
)
def test_command_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], names: str
) -> None:
    assert make_toyworld.main(["--out", str(tmp_path / "a"), *extra]) == 2
    error = capsys.readouterr().err
    assert names in error and error.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_two_classes_are_left_for_zero_shot_methods() -> None:
    assert [SPEC.label_names[label] for label in SPEC.unseen_labels] == ["ball", "tree"]
    shown = {int(value) for index in range(20) for value in np.unique(draw_scene(1, index).mask)}
    assert set(SPEC.unseen_labels) <= shown
