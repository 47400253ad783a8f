"""Masks for other trainers: files read the way those trainers read them."""

import os
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.provenance import record_text, source_of
from dataset.mask_png import read_mask, write_mask
from exports.files import export
from exports.table import FORMATS, format_of
from tests.segmentor.small import LABELS, scene
from tests.support import replace_photo

Item = tuple[str, Path, Path]


def items(root: Path, ids: tuple[str, ...], palette: bool = False) -> list[Item]:
    """Scenes as JPEG or PNG, whatever the id ends in, and their masks."""
    found = []
    for seed, image_id in enumerate(ids):
        image, labels = scene(seed)
        suffix = "jpg" if seed % 2 else "png"
        files = root / "img" / f"{image_id}.{suffix}", root / "msk" / f"{image_id}.png"
        files[0].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(files[0], quality=95)
        write_mask(files[1], labels, palette)
        found.append((image_id, *files))
    return found


def read_as_deeplab(out: Path, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """What that project's VOCAug data set does with its root and a split."""
    root = out / "VOC2012"
    pairs = []
    for line in (root / "ImageSets/SegmentationAug" / f"{split}.txt").read_text().splitlines():
        image, label = line.rstrip().split(" ")
        bgr = cv2.imread(os.path.join(root, image[1:]), cv2.IMREAD_COLOR)  # noqa: PTH118
        pairs.append((bgr[..., ::-1], np.asarray(Image.open(root / label[1:]), dtype=np.int32)))
    return pairs


def read_as_mmseg(out: Path, part: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """What BaseSegDataset does with the configuration that is written."""
    loader = runpy.run_path(str(out / "dataset.py"))[f"{part}_dataloader"]["dataset"]
    root, folders = Path(loader["data_root"]), loader["data_prefix"]
    pairs = []
    for line in (root / loader["ann_file"]).read_text().splitlines():
        name = line.strip()
        bgr = cv2.imread(str(root / folders["img_path"] / f"{name}.jpg"), cv2.IMREAD_COLOR)
        grey = np.array(Image.open(root / folders["seg_map_path"] / f"{name}.png"))
        pairs.append((bgr[..., ::-1], grey.squeeze().astype(np.uint8)))
    return pairs


READERS = {"deeplab-pytorch": read_as_deeplab, "mmsegmentation": read_as_mmseg}
SPLITS = {"deeplab-pytorch": ("train_aug", "val"), "mmsegmentation": ("train", "val")}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("palette", [False, True])
@pytest.mark.parametrize("copy", [False, True])
def test_the_trainers_find_images_and_labels(tmp_path: Path, kind: str, palette: bool, copy: bool) -> None:
    ids, out = ("a", "sub/b.c", "with space"), tmp_path / "out"
    train, unseen = items(tmp_path, ids, palette), items(tmp_path / "unseen", ("u",), palette)
    for _ in range(2):  # what is there is replaced
        done = [export(format_of(kind), "train", train, out, copy), export(format_of(kind), "val", unseen, out, copy)]
    format_of(kind).configure(out, LABELS, True)
    assert [(each.pairs, each.palettes, each.failures) for each in done] == [(3, 3 * palette, []), (1, palette, [])]
    for split, seeds in zip(SPLITS[kind], (3, 1)):
        found = READERS[kind](out, split)
        assert len(found) == seeds
        for seed, (image, labels) in enumerate(found):
            expected = scene(seed)
            assert np.array_equal(labels, expected[1])
            assert abs(image.astype(int) - expected[0]).mean() < 12  # JPEG; other scenes differ by 30
    grey = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in out.rglob("with*space.png")]
    assert len(grey) == 1 and np.array_equal(grey[0], scene(2)[1])
    links = [path for path in out.rglob("*.jpg") if path.is_symlink()]
    assert len(links) == (0 if copy else 4) and not any(str(path.readlink()).startswith("/") for path in links)
    for _, _, mask in train:  # never written through a link
        assert Image.open(mask).mode == ("P" if palette else "L")


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    found = items(tmp_path, ("a", "b", "x y", "x_y"))
    found[0][2].unlink()
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(found[1][2])
    done = export(format_of("deeplab-pytorch"), "train", found, tmp_path / "out")
    assert done.pairs == 1 and [image_id for image_id, _ in done.failures] == ["a", "b", "x_y"]
    assert "no such mask" in done.failures[0][1] and "size (3, 3)" in done.failures[1][1]
    assert "has the name of x y" in done.failures[2][1]
    with pytest.raises(UserError, match="nothing to export"):
        export(format_of("mmsegmentation"), "train", found[:2], tmp_path / "none")


def test_configurations_name_the_labels(tmp_path: Path) -> None:
    format_of("deeplab-pytorch").configure(tmp_path, LABELS, False)
    assert (tmp_path / "labels.txt").read_text() == "0\tbackground\n1\tred\n2\tblue\n"
    assert "N_CLASSES: 3\n" in (tmp_path / "dataset.yaml").read_text()
    path = format_of("mmsegmentation").configure(tmp_path, ('a "quoted"', "b"), False)
    settings = runpy.run_path(str(path))
    assert settings["metainfo"] == {"classes": ['a "quoted"', "b"], "palette": [[0, 0, 0], [128, 0, 0]]}
    assert settings["val_dataloader"]["dataset"]["ann_file"] == "lists/train.txt"


def test_the_mask_of_a_replaced_photo_is_not_exported(tmp_path: Path) -> None:
    pairs = items(tmp_path, ("a", "b"))
    for _, image, mask in pairs:
        write_mask(mask, read_mask(mask), made_by=record_text({"source": source_of(image)}))
    replace_photo(pairs[1][1])
    done = export(format_of("deeplab-pytorch"), "train", pairs, tmp_path / "out")
    assert done.pairs == 1 and [image_id for image_id, _ in done.failures] == ["b"]
    assert "made from another photo" in done.failures[0][1]
