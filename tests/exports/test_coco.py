"""COCO files as pycocotools and supervision read them."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.exports.made import CONFIDENCE, IDS, LABELS, exported, near_border, truth, without_255


def painted(coco: COCO, image_id: int, shape: tuple[int, int]) -> np.ndarray:
    """The labels of an image: every annotation drawn by pycocotools. None may lie upon another."""
    labels = np.zeros(shape, np.uint8)
    for annotation in coco.loadAnns(coco.getAnnIds(image_id)):
        mask = coco.annToMask(annotation).astype(bool)
        assert not labels[mask].any() and mask.sum() == annotation["area"]
        rows, columns = np.nonzero(mask)
        left, top, width, height = annotation["bbox"]
        assert (left, top) == (columns.min(), rows.min())
        assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
        labels[mask] = annotation["category_id"]
    return labels


@pytest.mark.parametrize("polygons", [False, True])
def test_pycocotools_reads_the_same_masks(tmp_path: Path, polygons: bool) -> None:
    out, pairs, done = exported("coco", tmp_path, polygons=polygons)
    assert done.pairs == {"train": 3, "val": 1} and done.failures == [] and done.unsure == 3
    coco = COCO(out / "annotations/instances_train.json")
    assert [(one["id"], one["name"]) for one in coco.loadCats(coco.getCatIds())] == list(enumerate(LABELS))[1:]
    expected = truth(pairs)
    for image in coco.loadImgs(coco.getImgIds()):
        labels = expected[image["file_name"].removesuffix(".jpg")]
        assert (image["height"], image["width"]) == labels.shape and (out / "train" / image["file_name"]).is_file()
        assert np.array_equal(painted(coco, image["id"], labels.shape), without_255(labels))
    scores = {one["category_id"]: one["score"] for one in coco.dataset["annotations"]}
    assert scores == {value: CONFIDENCE[value] for value in (1, 2, 3)}
    segmentations = {type(one["segmentation"]) for one in coco.dataset["annotations"]}
    assert segmentations == {list if polygons else dict}


def test_the_annotations_are_results_too(tmp_path: Path) -> None:
    """COCO's own evaluation of the file against itself, with its scores, finds every object."""
    out, _, _ = exported("coco", tmp_path)
    coco = COCO(out / "annotations/instances_val.json")
    evaluation = COCOeval(coco, coco.loadRes(coco.dataset["annotations"]), "segm")
    evaluation.params.maxDets = [1, 10, 1000]
    evaluation.evaluate()
    evaluation.accumulate()
    assert (evaluation.eval["recall"][:, :, 0, -1] == 1).all()  # every threshold and class, objects of any size


@pytest.mark.parametrize("polygons", [False, True])
def test_supervision_reads_the_same_objects(tmp_path: Path, polygons: bool) -> None:
    supervision = pytest.importorskip("supervision")
    out, pairs, _ = exported("coco", tmp_path, polygons=polygons)
    data = supervision.DetectionDataset.from_coco(
        str(out / "train"), str(out / "annotations/instances_train.json"), force_masks=True
    )
    expected = truth(pairs)
    assert data.classes == list(LABELS[1:]) and len(data) == len(IDS)
    for path, _, found in data:
        image_id = str(Path(path).relative_to(out / "train")).removesuffix(".jpg")
        labels = without_255(expected[image_id])
        for number in range(len(data.classes)):
            mask = (labels == number + 1).astype(np.uint8)
            masks = found.mask[found.class_id == number] if len(found) else []
            union = np.any(masks, axis=0) if len(masks) else np.zeros(labels.shape, bool)
            wrong = union != mask
            assert not wrong.any() if not polygons else not (wrong & ~near_border(mask)).any()


def test_classes_count_from_one_without_a_background_too(tmp_path: Path) -> None:
    out, pairs, _ = exported("coco", tmp_path, has_background=False)
    content = json.loads((out / "annotations/instances_train.json").read_text())
    assert [(one["id"], one["name"]) for one in content["categories"]] == list(enumerate(LABELS, 1))
    coco = COCO(out / "annotations/instances_train.json")
    labels = truth(pairs)["a"]
    found = painted(coco, 1, labels.shape)
    assert np.array_equal(found == 0, labels == 255) and np.array_equal(found[found > 0] - 1, labels[labels < 255])


def test_255_as_a_class(tmp_path: Path) -> None:
    out, pairs, _ = exported("coco", tmp_path, ignored="not sure")
    coco = COCO(out / "annotations/instances_train.json")
    assert coco.loadCats(4)[0]["name"] == "not sure"
    labels = truth(pairs)["a"]
    assert np.array_equal(painted(coco, 1, labels.shape) == 4, labels == 255)
