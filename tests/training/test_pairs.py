"""Images and masks that do not fit are found before the run."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from tests.segmentor.small import write_scenes
from training.pairs import training_pairs


def test_what_does_not_fit_is_found_before_the_run(tmp_path: Path) -> None:
    pairs = write_scenes(tmp_path, 4)
    pairs[1].mask.unlink()
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(pairs[2].mask)
    images, masks, ids = tmp_path / "images", tmp_path / "masks", [f"s{index}" for index in range(5)]
    good, failures = training_pairs(ids, images, masks, 3)
    assert [pair.id for pair in good] == ["s0", "s3"] and [image_id for image_id, _ in failures] == ["s1", "s2", "s4"]
    assert "no such mask" in failures[0][1] and "size (5, 5)" in failures[1][1]
    with pytest.raises(UserError, match=r"s0\.png: holds label 2, but there are labels 0 to 1"):
        training_pairs(ids, images, masks, 2)
    with pytest.raises(UserError, match=r"nothing to train on: .*s1\.png"):
        training_pairs(ids[1:3], images, masks, 3)
    pairs[1].image.write_bytes(b"broken")
    good, failures = training_pairs(ids[:4], images, None, 3)  # without masks
    assert [pair.id for pair in good] == ["s0", "s2", "s3"] and "s1.png" in failures[0][1]
