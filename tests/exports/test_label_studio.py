"""Label Studio's tasks as its own converter decodes them."""

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from lxml import etree

from exports.label_studio import brush_run_lengths
from tests.exports.made import CONFIDENCE, LABELS, exported, truth, without_255


def decode(rle: list[int]) -> np.ndarray:
    """By the published form: bits of the bytes, a head, runs."""
    bits, at = "".join(f"{byte:08b}" for byte in rle), 0

    def read(size: int) -> int:
        nonlocal at
        at += size
        return int(bits[at - size : at], 2)

    count, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        same, length = read(1), read(sizes[read(2)]) + 1
        values += [read(word)] * length if same else [read(word) for _ in range(length)]
    return np.array(values, np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (40, 57), (300, 400)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_run_lengths_come_back(shape: tuple[int, int], share: float) -> None:
    mask = (np.random.default_rng(0).random(shape) < share).astype(np.uint8)
    pixels = decode(brush_run_lengths(mask)).reshape(*shape, 4)
    assert (pixels == 255 * mask[..., None]).all()


@pytest.mark.slow
def test_the_converter_of_label_studio_reads_the_regions(tmp_path: Path) -> None:
    brush = pytest.importorskip("label_studio_converter.brush")
    out, pairs, _ = exported("label-studio", tmp_path)
    tasks = {task["data"]["id"]: task for task in json.loads((out / "tasks.json").read_text())}
    assert set(tasks) == {"a", "sub/b.c", "with space", "u"}
    for image_id, raw in truth(pairs).items():
        labels, found = without_255(raw), np.zeros_like(raw)
        (prediction,) = tasks[image_id]["predictions"]
        for region in prediction["result"]:
            shape = region["original_height"], region["original_width"]
            mask = brush.decode_rle(region["value"]["rle"]).reshape(*shape, 4)[..., 3] > 0
            (name,) = region["value"]["brushlabels"]
            assert not found[mask].any() and region["score"] == CONFIDENCE[LABELS.index(name)]
            found[mask] = LABELS.index(name)
        assert np.array_equal(found, labels)
        address = urlsplit(tasks[image_id]["data"]["image"])
        assert address.path == "/data/local-files/"
        assert (tmp_path / parse_qs(address.query)["d"][0]).is_file()
    assert tasks["a"]["predictions"][0]["score"] == 0.5 and "score" not in tasks["with space"]["predictions"][0]


def test_the_interface_names_image_brush_and_classes(tmp_path: Path) -> None:
    out, _, _ = exported("label-studio", tmp_path)
    config = etree.fromstring((out / "config.xml").read_bytes())
    (brushes,), (image,) = config.iter("BrushLabels"), config.iter("Image")
    assert [label.get("value") for label in brushes] == list(LABELS[1:])
    assert image.get("value") == "$image" and brushes.get("toName") == image.get("name") == "image"
    regions = json.loads((out / "tasks.json").read_text())[0]["predictions"][0]["result"]
    assert {(one["from_name"], one["to_name"], one["type"]) for one in regions} == {("class", "image", "brushlabels")}
