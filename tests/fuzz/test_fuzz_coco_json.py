"""COCO's instances file: any bytes, any JSON in its places, and segmentations that mean harm to pycocotools."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coco14.annotations import images_by_id
from coco14.masks import draw_mask
from common.errors import UserError
from dataset.labels import read_label_file
from dataset.readers.coco import CocoFile, read_coco
from tests.fuzz.labelled import check_table
from tests.fuzz.support import any_bytes, check_ids, check_message, patience, read_or_refuse

pytestmark = pytest.mark.slow

PARTS: dict[str, list[Any]] = {
    "images": [{"id": 7, "file_name": "a.jpg", "height": 4, "width": 6}, {"id": 3, "file_name": "sub/c d.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 5, "segmentation": [[0, 0, 4, 0, 4, 3]]},
        {"id": 2, "image_id": 3, "category_id": 9, "iscrowd": 1, "segmentation": {"size": [4, 6], "counts": [20, 4]}},
    ],
    "categories": [{"id": 5, "name": "person"}, {"id": 9, "name": "traffic light"}],
}
WHOLE = [json.dumps(PARTS).encode(), json.dumps(PARTS, indent=1).encode(), b'{"images": [], "annotations": []}']


def check_coco(coco: CocoFile | None) -> None:
    if coco is None:
        return
    assert set(coco.annotations) == {image.id for image in coco.images}
    assert {item["category_id"] for items in coco.annotations.values() for item in items} <= set(coco.categories)
    try:
        check_ids(list(images_by_id(coco)))
    except UserError as error:
        check_message(str(error), coco.path.name)
    for image in coco.images:
        check_mask(image.size, coco.annotations[image.id], dict.fromkeys(coco.categories, 0))


def check_mask(size: tuple[int, int], items: list[Any], indices: dict[int, int]) -> np.ndarray | None:
    """A mask of that size, or a refusal."""
    try:
        with patience():
            mask = draw_mask(size, items, indices, "x.json, image id 1")
    except UserError as error:
        check_message(str(error), "x.json")
        return None
    assert mask.shape == size and set(np.unique(mask)) <= {0, 255, *(index + 1 for index in indices.values())}
    return mask


@given(any_bytes(*WHOLE))
def test_any_bytes(data: bytes) -> None:
    check_coco(read_or_refuse(read_coco, Path("x.json"), data))
    check_table(read_or_refuse(read_label_file, Path("x.json"), data))


SIMPLE = st.one_of(st.none(), st.booleans(), st.integers(-2, 9), st.floats(), st.text(max_size=4))
HARSH: tuple[Any, ...] = (
    10**30, -(10**30), 10**4000, 1e999, "../a", "/a", "a\nb", "\ud800", "x" * 5000, {}, [[]], 7, 5, 9
)  # fmt: skip
ODD = st.one_of(SIMPLE, st.lists(st.integers(0, 9), max_size=7), st.sampled_from(HARSH))


@given(st.lists(st.tuples(st.sampled_from(("images", "annotations", "categories")), st.integers(0, 1),
                          st.sampled_from(("id", "image_id", "category_id", "file_name", "name", "height", "width",
                                           "segmentation", "iscrowd")), ODD), max_size=4))  # fmt: skip
def test_any_json_in_its_places(changes: list[tuple[str, int, str, Any]]) -> None:
    content = json.loads(json.dumps(PARTS))
    for part, index, key, value in changes:
        content[part][index][key] = value
    data = json.dumps(content).encode()
    check_coco(read_or_refuse(read_coco, Path("x.json"), data))
    check_table(read_or_refuse(read_label_file, Path("x.json"), data))


COUNT = st.one_of(st.integers(0, 24), st.sampled_from((-1, 2**31, 2**32 - 1, 2**64, 10**30, 1.5, None, "1", True)))
POINT = st.one_of(
    st.floats(-8, 14), st.integers(-8, 14), st.sampled_from((float("nan"), float("inf"), 1e30, -1e30, None))
)
SEGMENTATION = st.one_of(
    st.lists(st.lists(POINT, max_size=12), max_size=3),
    st.fixed_dictionaries({"size": st.just([4, 6]), "counts": st.lists(COUNT, max_size=6)}),
    st.fixed_dictionaries({"size": st.just([4, 6]), "counts": st.text(st.characters(codec="latin-1"), max_size=12)}),
    ODD,
)


@given(st.lists(SEGMENTATION, max_size=3), st.booleans())
def test_any_segmentation(segmentations: list[Any], crowd: bool) -> None:
    items = [{"id": 1, "category_id": 5, "iscrowd": crowd, "segmentation": each} for each in segmentations]
    check_mask((4, 6), items, {5: 0})


def test_depths_and_numbers_without_measure() -> None:
    whole = WHOLE[0].decode()
    for put in ("[" * 100_000, "[" * 990 + "]" * 990, "9" * 5000, "1e999", "-1e999", "NaN", '"\\u001b]0;x\\u0007"'):
        data = whole.replace('"image_id": 7', f'"image_id": {put}').encode()
        assert read_or_refuse(read_coco, Path("x.json"), data) is None
        check_table(read_or_refuse(read_label_file, Path("x.json"), data))
