"""Photos, generated images and copies of them, in VOC layout."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.material import VOC_SIZES, copies, generated, model_file, photos, smooth
from clip.archive import fingerprint
from clip.load import load_clip
from common.images import image_size
from tests.support import tree
from voc12.spec import CLASSES


def test_generated_images_stand_in_where_there_are_no_photos(tmp_path: Path) -> None:
    found = photos(4, tmp_path, source=tmp_path / "nowhere")
    samples = found.samples()
    assert [image_size(sample.image) for sample in samples] == list(VOC_SIZES[:4])
    assert [len(sample.labels) for sample in samples] == [1, 2, 3, 1]
    for sample in samples:
        mask = np.array(Image.open(found.masks / f"{sample.id}.png"))
        assert mask.shape == image_size(sample.image) and set(np.unique(mask)) <= {0, *(np.array(sample.labels) + 1)}
        assert len(np.unique(mask)) == len(sample.labels) + 1 and max(sample.labels) < len(CLASSES)


def test_photos_are_taken_from_all_over_the_set(tmp_path: Path, voc_mini: Path) -> None:
    found = photos(8, tmp_path, source=voc_mini)
    every = sorted(path.stem for path in (voc_mini / "JPEGImages").iterdir())
    assert len(found.ids) == 8 and found.ids[0] == every[0] and every.index(found.ids[-1]) > 30
    assert len(photos(1000, tmp_path, source=voc_mini).samples()) == len(every)


def test_the_same_seed_draws_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        generated(3, tmp_path / name, [(20, 30)], classes=4, first=7)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    images = list((tmp_path / "a" / "JPEGImages").iterdir())
    assert len({path.read_bytes() for path in images}) == 3


def test_copies(tmp_path: Path) -> None:
    few = generated(2, tmp_path / "few", [(20, 30)])
    many = copies(few, tmp_path / "many", 5)
    originals, found = few.samples(), many.samples()
    assert [sample.labels for sample in found] == [originals[index % 2].labels for index in range(5)]
    assert [s.image.read_bytes() for s in found] == [originals[index % 2].image.read_bytes() for index in range(5)]
    assert len({sample.id for sample in found}) == 5 and len(list(many.masks.iterdir())) == 5


def test_smooth_maps() -> None:
    found = smooth(np.random.default_rng(0), (40, 60), 6)
    assert found.shape == (40, 60) and found.dtype == np.float32 and found.min() == 0 and found.max() == 1
    assert np.abs(np.diff(found)).max() < 0.2


@pytest.mark.slow
def test_the_random_vit_is_a_vit_b_16_and_the_same_each_time(tmp_path: Path) -> None:
    clip, again = load_clip(str(model_file("ViT-B/16", tmp_path / "a"))), model_file("ViT-B/16", tmp_path / "b")
    assert "ViT, 12 blocks, width 768, patch 16" in clip.describe()
    assert clip.activation == "quick_gelu" and clip.fingerprint == fingerprint(again)
