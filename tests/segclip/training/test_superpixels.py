"""Superpixels: maps as files, and the superpixel of each patch against a loop."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from segclip.training.superpixels import patch_ids, read_ids, superpixels, write_ids


def test_areas_of_one_colour_are_superpixels() -> None:
    rgb = np.full((80, 120, 3), 200, np.uint8)
    rgb[20:60, 30:70] = (10, 40, 200)
    rgb[:, 100:] = (0, 250, 0)
    ids = superpixels(rgb)
    assert ids.dtype == np.uint16 and set(np.unique(ids)) == {0, 1, 2}
    for part in (ids[25:55, 35:65], ids[:, 105:], ids[:15, :90]):
        assert len(np.unique(part)) == 1


@pytest.mark.parametrize(
    "corners", [(0.0, 0.0, 1.0, 1.0), (0.13, 0.2, 0.71, 0.95), (0.5, 0.5, 0.505, 0.505), (0.3, 0.1, 0.32, 0.9)]
)
def test_the_superpixel_of_a_patch_as_a_loop_has_it(corners: tuple[float, float, float, float]) -> None:
    ids = np.random.default_rng(0).integers(0, 400, (37, 53)).repeat(3, 0).astype(np.uint16)
    (height, width), (x0, y0, x1, y1) = ids.shape, corners
    top, bottom, left, right = int(y0 * height), int(np.ceil(y1 * height)), int(x0 * width), int(np.ceil(x1 * width))
    part = ids[top:bottom, left:right]
    if min(part.shape) < 2:
        part = ids
    near = cv2.resize(part, (24, 24), interpolation=cv2.INTER_NEAREST)
    for rule in ("mean", "most"):
        found = patch_ids(ids, corners, 24, 8, rule)
        for patch in range(9):
            y, x = 8 * (patch // 3), 8 * (patch % 3)
            cell = near[y : y + 8, x : x + 8].ravel().astype(int)
            counts = np.bincount(cell)
            assert found[patch] == (cell.sum() // 64 if rule == "mean" else found[patch])
            assert rule == "mean" or counts[found[patch]] == counts.max()


def test_maps_keep_all_of_16_bits_and_must_fit_their_image(tmp_path: Path) -> None:
    ids = np.arange(200 * 300, dtype=np.uint16).reshape(200, 300) + 5000
    path = tmp_path / "a/b.png"
    write_ids(path, ids, "how")
    assert np.array_equal(np.array(Image.open(path)), ids) and Image.open(path).info["made_by"] == "how"
    assert np.array_equal(read_ids(path, (200, 300)), ids)
    assert np.array_equal(read_ids(Path("shard.tar/b.png"), (200, 300), path.read_bytes()), ids)
    with pytest.raises(
        UserError, match=r"b\.png: superpixels of 300x200 pixels for an image stored as 298x224; python"
    ):
        read_ids(path, (224, 298))
    Image.new("RGB", (300, 200)).save(tmp_path / "rgb.png")
    with pytest.raises(UserError, match="a RGB picture, no map of superpixels"):
        read_ids(tmp_path / "rgb.png", (200, 300))
    with pytest.raises(UserError, match="no such map of superpixels"):
        read_ids(tmp_path / "gone.png", (200, 300))
