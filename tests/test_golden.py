"""The reference CLIP-ES's numbers in what benchmarks/parity does not look at: batches, full-size files, masks' 255s."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clip.image import patch_grid, prepare_image
from clip.load import Clip, load_clip
from common.images import read_image
from dataset.split_file import read_split
from dataset.voc_layout import read_labels
from pipeline.files.cam_file import load_cams
from pipeline.methods.clip_es import ClipEsSettings
from pipeline.methods.method import CamSettings, TextSet
from pipeline.methods.table import compute_maps
from pipeline.steps.maps import resize_maps
from pipeline.steps.tensors import to_numpy
from tests.support import Command
from voc12.spec import SPEC

pytestmark = pytest.mark.slow

CAM_TYPES = ("highres", "attn_highres")
MAP_TOLERANCE = 1e-3  # float16 storage alone is 5e-4


@pytest.fixture(scope="module")
def clip(golden: Path) -> Clip:
    return load_clip(str(golden / "clip.pt"))


@pytest.fixture(scope="module")
def expected(golden: Path) -> dict:
    return json.loads((golden / "eval.json").read_text())


@pytest.fixture
def data(golden: Path, voc_mini: Path) -> list[object]:
    """The options that name the golden images."""
    return ["--dataset", "voc12", "--img_root", voc_mini / "JPEGImages", "--split_file", golden / "split.txt"]


def assert_maps(found: np.ndarray, golden_file: Path, cam_type: str) -> None:
    wanted = np.load(golden_file)[cam_type].astype(np.float32)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < MAP_TOLERANCE, (golden_file.name, cam_type)


def test_maps_from_the_golden_text_embeddings(clip: Clip, golden: Path, voc_mini: Path) -> None:
    embeddings = np.load(golden / "text.npz")
    text = TextSet(*(torch.from_numpy(embeddings[name]) for name in ("foreground", "background")))
    for image_id in read_split(golden / "split.txt"):
        image = read_image(voc_mini / "JPEGImages" / f"{image_id}.jpg")
        labels = read_labels(voc_mini / "Annotations" / f"{image_id}.xml", SPEC.classes)
        golden_file = golden / "cams" / f"{image_id}.npz"
        assert labels == tuple(np.load(golden_file)["keys"])
        batch = prepare_image(image, clip.patch_size)[None]
        ((cam, attn),) = compute_maps(clip, batch, [labels], text, CamSettings(options=ClipEsSettings(0.4)))
        size = (image.height, image.width)
        assert cam.shape == (len(labels), *patch_grid(size, 16))
        assert_maps(resize_maps(to_numpy(cam), size), golden_file, "highres")
        assert_maps(resize_maps(to_numpy(attn), size), golden_file, "attn_highres")


def test_full_size_maps_by_the_command(golden: Path, data: list[object], command: Command, tmp_path: Path) -> None:
    model = ["--model", golden / "clip.pt", "--device", "cpu"]
    ended = command("generate_cams", *data, *model, "--save", "highres", "--cam_out_dir", tmp_path)
    assert ended.code == 0, ended.err
    ids = read_split(golden / "split.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["run.json", *(f"{id}.npz" for id in ids)])
    for image_id in ids:
        for cam_type in CAM_TYPES:
            keys, maps = load_cams(tmp_path / f"{image_id}.npz", cam_type, 20)
            golden_file = golden / "cams" / f"{image_id}.npz"
            assert keys.tolist() == np.load(golden_file)["keys"].tolist()
            assert_maps(maps, golden_file, cam_type)


@pytest.mark.parametrize("cam_type", CAM_TYPES)
def test_scores_of_the_golden_maps_in_float32(
    cam_type: str, golden: Path, voc_mini: Path, data: list[object], expected: dict, command: Command, tmp_path: Path
) -> None:
    options = ["--cam_type", cam_type, "--gt_root", voc_mini / "SegmentationClass"]
    ended = command("eval_cam", *data, *options, "--cam_out_dir", golden / "cams", "--json", tmp_path / "s.json")
    assert ended.code == 0, ended.err
    found, wanted = json.loads((tmp_path / "s.json").read_text()), expected[cam_type]
    by_value = {key.removeprefix("alpha_"): value for key, value in wanted.items() if key.startswith("alpha_")}
    assert found["background"]["miou_by_value"] == pytest.approx(by_value, abs=1e-4)
    assert by_value[f"{found['background']['value']:g}"] == wanted["best_mIoU"]
    assert found["images"] == 8 and f"{100 * wanted['best_mIoU']:.1f}" in ended.out


def test_golden_masks_are_scored_with_their_255s(
    golden: Path, voc_mini: Path, data: list[object], command: Command, tmp_path: Path
) -> None:
    """Which the reference cannot; coverage and precision are counted here by hand."""
    options = ["--cam_type", "png", "--cam_out_dir", golden / "masks", "--json", tmp_path / "s.json"]
    assert command("eval_cam", *data, *options).code == 0
    scored = covered = right = 0
    for image_id in read_split(golden / "split.txt"):
        truth = np.array(Image.open(voc_mini / "SegmentationClass" / f"{image_id}.png"))
        mask = np.array(Image.open(golden / "masks" / f"{image_id}.png"))
        scored += (truth != 255).sum()
        covered += ((truth != 255) & (mask != 255)).sum()
        right += ((truth != 255) & (mask == truth)).sum()
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["coverage"] == pytest.approx(covered / scored) and found["coverage"] < 0.99
    assert found["precision"] == pytest.approx(right / covered)
    assert found["pixels"] == scored
