"""The transcription gives the reference's maps, and works as the reference does: slowly."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.plain_clip_es import PlainModel, box_mask, load_plain, plain_maps, save
from clip.image import prepare_image
from clip.load import load_clip
from dataset.split_file import read_split
from dataset.voc_layout import read_labels
from pipeline.methods.clip_es import ClipEsSettings
from pipeline.methods.method import CamSettings, TextSet
from pipeline.methods.table import compute_maps
from pipeline.steps.maps import resize_maps
from pipeline.steps.tensors import to_numpy
from toyworld import spec as toy
from toyworld.scenes import draw_scene
from voc12.spec import SPEC


@pytest.fixture(scope="module")
def toy_model() -> PlainModel:
    return load_plain(toy.WEIGHTS, toy.SPEC)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(3))
def test_golden_maps(index: int, golden: Path, voc_mini: Path) -> None:
    model = load_plain(golden / "clip.pt", SPEC)
    for image_id in read_split(golden / "split.txt")[index::3]:
        labels = read_labels(voc_mini / "Annotations" / f"{image_id}.xml", SPEC.classes)
        with Image.open(voc_mini / "JPEGImages" / f"{image_id}.jpg") as image:
            maps = plain_maps(model, image.convert("RGB"), labels)
        wanted = np.load(golden / "cams" / f"{image_id}.npz")
        assert maps.keys.tolist() == wanted["keys"].tolist()
        for name in ("highres", "attn_highres"):
            assert np.abs(getattr(maps, name) - wanted[name].astype(np.float32)).max() < 1e-3, (image_id, name)


@pytest.mark.parametrize("index", range(3))
def test_the_same_maps_as_the_pipeline(index: int, toy_model: PlainModel) -> None:
    scene = draw_scene(5, index)
    labels, image = [toy.CLASSES.index(name) for name in scene.classes], Image.fromarray(scene.image)
    maps = plain_maps(toy_model, image, labels)
    frozen = load_clip(str(toy.WEIGHTS))
    text = TextSet(toy_model.foreground, toy_model.background)
    batch = prepare_image(image, frozen.patch_size)[None]
    ((cam, attn),) = compute_maps(
        frozen, batch, [labels], text, CamSettings(options=ClipEsSettings(toy.SPEC.box_threshold))
    )
    for found, own in ((maps.highres, cam), (maps.attn_highres, attn)):
        assert found.shape == (len(labels), *scene.mask.shape)
        assert np.abs(found - resize_maps(to_numpy(own), scene.mask.shape)).max() < 1e-3


def test_weights_of_the_last_block_get_gradients_and_no_others_do(toy_model: PlainModel) -> None:
    plain_maps(toy_model, Image.fromarray(draw_scene(5, 0).image), [0])
    *earlier, last = toy_model.clip.visual.transformer.resblocks
    assert all(weight.requires_grad for weight in toy_model.clip.model.parameters())
    assert all(weight.grad is not None for weight in last.parameters())
    assert not any(weight.grad is not None for block in earlier for weight in block.parameters())


def test_an_image_without_labels(toy_model: PlainModel) -> None:
    maps = plain_maps(toy_model, Image.new("RGB", (40, 33)), [])
    assert maps.keys.shape == (0,) and maps.highres.shape == maps.attn_highres.shape == (0, 33, 40)


def test_a_box_that_touches_the_border_loses_its_last_row_and_column() -> None:
    cam = np.zeros((6, 8), np.float32)
    cam[1:3, 2:4] = 1
    cam[4:, 6:] = 0.9
    wanted = np.zeros((6, 8))
    wanted[1:3, 2:4] = 1
    wanted[4, 6] = 1
    assert (box_mask(cam, 0.4) == wanted).all()
    assert not box_mask(np.zeros((6, 8), np.float32), 0.4).any()


def test_what_is_kept_is_what_the_reference_keeps(toy_model: PlainModel, tmp_path: Path) -> None:
    maps = plain_maps(toy_model, Image.fromarray(draw_scene(5, 1).image), [3, 0])
    save(tmp_path / "a.npz", maps)
    with np.load(tmp_path / "a.npz") as file:
        assert set(file.files) == {"keys", "attn_highres"} and file["attn_highres"].dtype == np.float16
        assert file["keys"].tolist() == [3, 0]
        assert np.abs(file["attn_highres"] - maps.attn_highres).max() < 5e-4
    assert (tmp_path / "a.npz").stat().st_size > maps.attn_highres.size * 2
