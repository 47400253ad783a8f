"""The two forms of Ultralytics, by its published rules and by supervision.

Ultralytics itself needs another OpenCV than this project and is not installed. Its rules: a mask or label file is found
by replacing the last folder `images` of a photo's path and its suffix; masks are read as grey values; a label file's
lines of more than six words are polygons, cut to whole pixels and filled by cv2.fillPoly; val and names are needed.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from tests.exports.made import IDS, LABELS, exported, near_border, truth, without_255


def read_yaml(out: Path) -> dict[str, Any]:
    data = yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))
    assert {"train", "val", "names"} <= set(data)
    return data


def partner(photo: Path, folder: str, suffix: str) -> Path:
    before, _, behind = str(photo).rpartition("/images/")
    return Path(f"{before}/{folder}/{behind.rpartition('.')[0]}{suffix}")


def photos(out: Path, data: dict[str, Any], part: str) -> list[Path]:
    return sorted(path for path in (out / data[part]).rglob("*.*") if path.suffix == ".jpg")


def id_of(photo: Path) -> str:
    return photo.name.removesuffix(".jpg").replace("__", "/")


def test_semantic_masks_are_grey_values(tmp_path: Path) -> None:
    out, pairs, done = exported("ultralytics", tmp_path)
    data = read_yaml(out)
    assert list(data["names"].values()) == list(LABELS) and done.failures == []
    found = photos(out, data, "train")
    assert len(found) == len(IDS) and len(photos(out, data, "val")) == 1
    for photo in found:
        mask = cv2.imread(str(partner(photo, data["masks_dir"], ".png")), cv2.IMREAD_ANYDEPTH)
        assert np.array_equal(mask, truth(pairs)[id_of(photo)])


def rules_of_yolo(file: Path, shape: tuple[int, int], classes: int) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    for line in file.read_text().splitlines():
        number, *words = line.split()
        assert len(words) >= 6 and len(words) % 2 == 0 and 0 <= int(number) < classes
        points = np.array(words, np.float32).reshape(-1, 2)
        assert points.min() >= 0 and points.max() <= 1
        pixels = (points * shape[::-1]).astype(np.int32)
        cv2.fillPoly(labels, [pixels], int(number) + 1)
    return labels


def test_polygons_filled_by_its_rules_are_the_masks(tmp_path: Path) -> None:
    out, pairs, _ = exported("yolo-seg", tmp_path)
    data = read_yaml(out)
    assert list(data["names"].values()) == list(LABELS[1:]) and "masks_dir" not in data
    for photo in photos(out, data, "train"):
        labels = without_255(truth(pairs)[id_of(photo)])
        found = rules_of_yolo(partner(photo, "labels", ".txt"), labels.shape, len(data["names"]))
        assert np.array_equal(found, labels)


def test_supervision_reads_the_same_polygons(tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    out, pairs, _ = exported("yolo-seg", tmp_path)
    folders = [str(out / "images/train"), str(out / "labels/train"), str(out / "data.yaml")]
    data = supervision.DetectionDataset.from_yolo(*folders, force_masks=True)
    assert data.classes == list(LABELS[1:]) and len(data) == len(IDS)
    for path, _, found in data:
        labels = without_255(truth(pairs)[id_of(Path(path))])
        for number in range(len(data.classes)):
            mask = (labels == number + 1).astype(np.uint8)
            masks = found.mask[found.class_id == number] if len(found) else []
            union = np.any(masks, axis=0) if len(masks) else np.zeros(labels.shape, bool)
            assert not ((union != mask) & ~near_border(mask)).any()


def test_without_a_validation_part_the_training_images_stand_in(tmp_path: Path) -> None:
    from exports.files import Job, export
    from exports.table import format_of
    from tests.exports.made import items

    export(format_of("yolo-seg"), Job(tmp_path / "out", LABELS), {"train": items(tmp_path)})
    assert read_yaml(tmp_path / "out")["val"] == "images/train"
