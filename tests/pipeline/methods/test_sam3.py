"""SAM 3's maps against transformers' own network and post-processing, one name of one photo after the other."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from clip.text import token_ids
from common.errors import UserError
from dataset.spec import DatasetSpec
from pipeline.files.cam_file import read_maps
from pipeline.methods.method import CamSettings
from pipeline.methods.sam3 import Sam3Settings
from pipeline.methods.table import METHODS, compute_maps
from pipeline.stages.cams import ModelSource, text_set
from pipeline.steps.masks import labels_of
from tests.small_sam import save_sam3
from tests.support import Command, photo

pytestmark = pytest.mark.slow  # to import this network takes seconds
SPEC = DatasetSpec("three", ("dog", "cat", "car"), (("dog", "small dog"), ("cat",), ("red car",)), (), True, 0.4)
SIDE, GRID = 56, 16
METHOD = METHODS["sam3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sam3")
    save_sam3(folder)
    return folder


def naive(folder: Path, rgb: np.ndarray, names: tuple[str, ...], presence: bool = False) -> np.ndarray:
    """(GRID, GRID): the best of the names' probabilities."""
    network = transformers.Sam3Model.from_pretrained(folder).eval()
    processor = transformers.Sam3ImageProcessor(size={"height": SIDE, "width": SIDE})
    pixels = processor(images=Image.fromarray(rgb), return_tensors="pt")["pixel_values"]
    best = np.zeros((GRID, GRID), np.float32)
    for name in names:
        ids = token_ids([name], 32)
        mask = torch.zeros_like(ids)
        mask[:, : int((ids[0] == 49407).nonzero()[0, 0]) + 1] = 1
        with torch.no_grad():
            found = network(pixel_values=pixels, input_ids=ids, attention_mask=mask)
        (result,) = processor.post_process_semantic_segmentation(
            found, target_sizes=[(GRID, GRID)], return_segmentation_scores=True
        )
        weight = float(found.presence_logits.sigmoid()) if presence else 1
        best = np.maximum(best, weight * result["segmentation_scores"][0].numpy())
    return best


@pytest.mark.parametrize("presence", [False, True])
def test_maps_are_those_of_the_library(presence: bool, folder: Path) -> None:
    clip = ModelSource(str(folder)).load(method=METHOD)
    settings = CamSettings(method="sam3", options=Sam3Settings(presence, at_once=2))
    text = text_set(clip, SPEC, settings)
    photos = [photo((SIDE, SIDE), seed) for seed in (1, 2)]
    images = torch.stack([torch.from_numpy(one).permute(2, 0, 1) / 127.5 - 1 for one in photos])
    for rgb, present, (maps, again) in zip(
        photos, ([0, 2], [1]), compute_maps(clip, images, [[0, 2], [1]], text, settings)
    ):
        names = [SPEC.prompts[label] for label in present]
        wanted = np.stack([naive(folder, rgb, group, presence) for group in names]).clip(1e-4, 1 - 1e-4)
        logits = np.log(wanted) - np.log(1 - wanted.max(axis=0))
        assert again is maps and np.abs(maps.numpy() - logits).max() < 1e-3 and logits.std() > 0.1
    assert [len(maps) for maps, _ in compute_maps(clip, images[:1], [[]], text, settings)] == [0]


def test_from_photos_to_masks(folder: Path, command: Command, tmp_path: Path) -> None:
    """With labels and without; the label of a pixel is the class that beats what all classes leave."""
    (tmp_path / "photos").mkdir()
    rgb = photo((SIDE, SIDE), 5)
    Image.fromarray(rgb).save(tmp_path / "photos" / "a.png")
    (tmp_path / "classes.txt").write_text("dog: dog; small dog\ncat\ncar: red car\n")
    names: list[object] = ["--dataset", "folder", "--classes", tmp_path / "classes.txt"]
    data = [*names, "--img_root", tmp_path / "photos"]
    out: list[object] = ["--cam_out_dir", tmp_path / "cams", "--device", "cpu"]
    ended = command("generate_cams", *data, *out, "--method", "sam3", "--model", folder)
    assert ended.code == 0 and "SAM 3, squares of 56" in ended.out, ended.err
    stored = read_maps(tmp_path / "cams" / "a.npz", "attn_highres", 3)
    classes = np.stack([naive(folder, rgb, group) for group in SPEC.prompts]).clip(1e-4, 1 - 1e-4)
    wanted = np.log(classes) - np.log(1 - classes.max(axis=0))
    assert stored.kind == "logit" and np.abs(stored.maps - wanted).max() < 4e-3  # half precision
    masks = tmp_path / "masks"
    more: list[object] = ["--refine", "none", "--pseudo_mask_save_path", masks, "--cam_out_dir", tmp_path / "cams"]
    assert command("eval_cam_with_crf", *data, *more).code == 0
    full = labels_of(np.concatenate([np.zeros((1, SIDE, SIDE)), stored.resized((SIDE, SIDE))]), np.arange(3))
    assert np.array_equal(np.asarray(Image.open(masks / "a.png")), full) and len(np.unique(full)) > 2


def test_other_models_are_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "sam"}')
    for source, told in (
        (ModelSource("ViT-B-16", "openai"), "--pretrained openai: no SAM 3; give --model a folder with config.json"),
        (ModelSource(""), "--model is needed with --method sam3: a folder with config.json"),
        (ModelSource(str(tmp_path)), "a network of the kind sam; expected sam3"),
        (ModelSource(str(tmp_path / "absent" / "x")), "no readable network on this machine"),
        (ModelSource(str(folder), prompts=Path("p")), "--prompts: learned for a CLIP"),
    ):
        with pytest.raises(UserError, match=told):
            source.load(method=METHOD)
