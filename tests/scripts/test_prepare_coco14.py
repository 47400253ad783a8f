"""scripts/prepare_coco14.py: split file and masks from a small instances file with COCO's own categories."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coco14.spec import CLASSES, OFFICIAL_NAMES
from dataset.mask_png import read_mask
from tests.support import Command

GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # category ids from 1 to 90 that COCO does not use
IDS = [number for number in range(1, 91) if number not in GAPS]
OFFICIAL = {name: other for other, name in OFFICIAL_NAMES.items()}
CATEGORIES = [{"id": number, "name": OFFICIAL.get(name, name)} for number, name in zip(IDS, CLASSES)]
BOX = [[2, 1, 6, 1, 6, 4, 2, 4]]


def content(**changed: Any) -> dict[str, Any]:
    images = [
        {"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "height": 8, "width": 10},
        {"id": 25, "file_name": "COCO_train2014_000000000025.jpg", "height": 8, "width": 10},
        {"id": 30, "file_name": "COCO_train2014_000000000030.jpg", "height": 8, "width": 10},
    ]
    annotations = [
        {"id": 1, "image_id": 9, "category_id": 51, "iscrowd": 0, "segmentation": BOX},
        {"id": 2, "image_id": 9, "category_id": 56, "iscrowd": 0, "segmentation": [[8, 6, 9, 6, 9, 7, 8, 7]]},
        {"id": 3, "image_id": 9, "category_id": 51, "iscrowd": 0, "segmentation": BOX},
        {
            "id": 4,
            "image_id": 9,
            "category_id": 55,
            "iscrowd": 1,
            "segmentation": {"size": [8, 10], "counts": [0, 8, 72]},
        },
        {"id": 5, "image_id": 30, "category_id": 90, "iscrowd": 0, "segmentation": BOX},
    ]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES[::-1]} | changed


def prepare(command: Command, folder: Path, data: object, *more: object) -> Any:
    path = folder / "instances.json"
    path.write_text(json.dumps(data) if not isinstance(data, str) else data)
    outputs = more or ("--masks_out", folder / "masks", "--split_out", folder / "train.txt")
    return command("scripts.prepare_coco14", "--annotations", path, *outputs)


def test_split_and_masks(command: Command, tmp_path: Path) -> None:
    ended = prepare(command, tmp_path, content())
    assert ended.code == 0, ended.err
    split = "COCO_train2014_000000000009 45 49 50\nCOCO_train2014_000000000030 79\n"
    assert (tmp_path / "train.txt").read_text() == split
    wanted = np.zeros((8, 10), np.uint8)
    wanted[:, 0] = 255
    wanted[1:4, 2:6] = 46
    wanted[6, 8] = 51
    np.testing.assert_array_equal(read_mask(tmp_path / "masks/COCO_train2014_000000000009.png"), wanted)
    assert len(list((tmp_path / "masks").iterdir())) == 2
    assert "2 with objects, of 3 in" in ended.out
    assert "expected train 82081 or val 40137: not a whole split" in ended.out


def test_either_output_alone(command: Command, tmp_path: Path) -> None:
    ended = prepare(command, tmp_path, content(), "--split_out", tmp_path / "s.txt")
    assert ended.code == 0 and "masks   not written" in ended.out and not (tmp_path / "masks").exists()
    ended = command("scripts.prepare_coco14", "--annotations", tmp_path / "instances.json")
    assert ended.code == 2 and "--masks_out DIR, --split_out FILE" in ended.err


def test_a_damaged_segmentation_fails_alone(command: Command, tmp_path: Path) -> None:
    data = content()
    data["annotations"][0]["segmentation"] = [[1, 2]]
    ended = prepare(command, tmp_path, data)
    assert ended.code == 3 and "image id 9, annotation 1: a damaged polygon" in ended.err
    assert [path.stem[-2:] for path in (tmp_path / "masks").iterdir()] == ["30"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"images"', "instances.json, line 1: not JSON"),
        ({"images": []}, "instances.json: no list `annotations`"),
        (content(categories=CATEGORIES[:3], annotations=[]), "3 categories; expected COCO's 80 (for other data use"),
        (content(categories=[*CATEGORIES[:-1], {"id": 90, "name": "comb"}]), "category 90 is 'comb'; expected"),
        (content(annotations=[]), "instances.json: no image has an object"),
        (content(images=[{"id": i, "file_name": "a.jpg"} for i in (9, 25, 30)]), "two images are called a"),
        (content(images=[{"id": i, "file_name": f"../{i}.jpg"} for i in (9, 25, 30)]), "leaves the image folder"),
        (content(images=[{"id": i, "file_name": f"a {i}.jpg"} for i in (9, 25, 30)]), "holds spaces"),
    ],
)
def test_wrong_files(data: object, message: str, command: Command, tmp_path: Path) -> None:
    ended = prepare(command, tmp_path, data)
    assert ended.code == 2 and message in ended.err and len(ended.err.splitlines()) == 1
    assert not (tmp_path / "masks").exists() and not (tmp_path / "train.txt").exists()


def test_no_such_file(command: Command, tmp_path: Path) -> None:
    ended = command("scripts.prepare_coco14", "--annotations", tmp_path / "x.json", "--split_out", tmp_path / "s")
    assert ended.code == 2 and "x.json: no such file; expected a COCO instances file" in ended.err


def test_what_it_writes_is_read_by_the_cam_stage_and_scored(command: Command, tmp_path: Path, weights: Path) -> None:
    from PIL import Image

    from tests.support import photo

    assert prepare(command, tmp_path, content()).code == 0
    (tmp_path / "train2014").mkdir()
    for number in (9, 30):
        Image.fromarray(photo((8, 10), number)).save(tmp_path / f"train2014/COCO_train2014_0000000000{number:02}.jpg")
    data = ["--dataset", "coco14", "--img_root", tmp_path / "train2014", "--split_file", tmp_path / "train.txt"]
    data += ["--cam_out_dir", tmp_path / "cams"]
    assert command("generate_cams", *data, "--model", weights, "--device", "cpu").code == 0
    with np.load(tmp_path / "cams/COCO_train2014_000000000009.npz") as arrays:
        assert arrays["keys"].tolist() == [45, 49, 50] and '"box_threshold": 0.7' in str(arrays["made_by"])
    ended = command("eval_cam", *data, "--gt_root", tmp_path / "masks")
    assert ended.code == 0 and "2 images" in ended.out
    ended = command("eval_cam", *data)
    assert ended.code == 2 and "--gt_root is needed to score: coco14 has no usual place" in ended.err
