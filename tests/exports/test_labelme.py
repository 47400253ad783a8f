"""labelme's files, by its published rules; labelme itself needs Qt and is not installed.

Its rules: a mask is a PNG in base64 whose pixels fill the box from its first to its last point, both inside; a polygon
is filled with its border by PIL; later shapes lie upon earlier ones; the image lies beside the JSON file.
"""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.exports.made import CONFIDENCE, LABELS, exported, near_border, truth, without_255


def drawn(shape: dict, size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, bool)
    if shape["shape_type"] == "mask":
        (x1, y1), (x2, y2) = np.round(shape["points"]).astype(int)
        mask[y1 : y2 + 1, x1 : x2 + 1] = np.array(Image.open(io.BytesIO(base64.b64decode(shape["mask"])))).astype(bool)
        return mask
    picture = Image.new("L", size[::-1], 0)
    ImageDraw.Draw(picture).polygon([tuple(point) for point in shape["points"]], outline=1, fill=1)
    assert len(shape["points"]) > 2
    return np.array(picture, bool)


@pytest.mark.parametrize("polygons", [False, True])
def test_shapes_are_the_masks(tmp_path: Path, polygons: bool) -> None:
    out, pairs, _ = exported("labelme", tmp_path, polygons=polygons)
    for image_id, raw in truth(pairs).items():
        path = out / f"train/{image_id}.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        assert (path.parent / content["imagePath"]).is_file() and content["imageData"] is None
        assert (content["imageHeight"], content["imageWidth"]) == raw.shape
        labels, found = without_255(raw), np.zeros_like(raw)
        for shape in content["shapes"]:
            assert shape["score"] == CONFIDENCE[LABELS.index(shape["label"])]
            found[drawn(shape, raw.shape)] = LABELS.index(shape["label"])
        wrong = found != labels
        if polygons:
            near = np.any([near_border((labels == value).astype(np.uint8)) for value in range(4)], axis=0)
            assert not (wrong & ~near).any() and wrong.mean() < 0.02
        else:
            assert not wrong.any()
