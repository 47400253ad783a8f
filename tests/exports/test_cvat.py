"""CVAT's and VOC's layouts as Datumaro reads them, which CVAT imports with; and by their published rules."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.measure import label as naive_parts

from dataset.mask_png import write_mask
from exports.files import Job, export
from exports.table import format_of
from tests.exports.made import LABELS, exported, items, truth, without_255

NAMES = ["a", "sub/b.c", "with space", "u"]


def unpacked(out: Path, root: Path) -> Path:
    with zipfile.ZipFile(out / "segmentation_mask.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(root)
    return root


def colours(text: str) -> dict[tuple[int, ...], str]:
    lines = [line.split(":") for line in text.splitlines() if not line.startswith("#")]
    assert all(len(line) == 4 for line in lines)
    return {tuple(int(part) for part in line[1].split(",")): line[0] for line in lines}


def objects(numbers: np.ndarray, labels: np.ndarray) -> set[tuple[int, bytes]]:
    """(class, pixels) of every object of an (H, W, 3) picture of objects."""
    packed = numbers.astype(int) @ (1, 256, 65536)
    found = set()
    for number in set(np.unique(packed).tolist()) - {0}:
        mask = packed == number
        (value,) = set(labels[mask].tolist())
        found.add((value, mask.tobytes()))
    return found


def test_every_object_of_the_archive_is_one_connected_part(tmp_path: Path) -> None:
    out, pairs, done = exported("cvat", tmp_path)
    folder = unpacked(out, tmp_path / "zip")
    assert (folder / "ImageSets/Segmentation/default.txt").read_text() == "".join(f"{name}\n" for name in NAMES)
    names = colours((folder / "labelmap.txt").read_text(encoding="utf-8"))
    assert list(names.values()) == list(LABELS) and done.unsure == 3
    for image_id, raw in truth(pairs).items():
        labels = without_255(raw)
        classes = np.array(Image.open(folder / f"SegmentationClass/{image_id}.png"))
        found = np.array([[LABELS.index(names[tuple(pixel)]) for pixel in row] for row in classes.tolist()])
        assert np.array_equal(found, labels)
        wanted = set()
        for value in range(1, len(LABELS)):
            parts, count = naive_parts(labels == value, connectivity=2, return_num=True)
            wanted |= {(value, (parts == index).tobytes()) for index in range(1, count + 1)}
        pictured = np.array(Image.open(folder / f"SegmentationObject/{image_id}.png"))
        assert objects(pictured, labels) == wanted


@pytest.mark.parametrize("ignored", ["", "not sure"])
def test_datumaro_imports_the_archive(tmp_path: Path, ignored: str) -> None:
    datumaro = pytest.importorskip("datumaro")
    out, pairs, _ = exported("cvat", tmp_path, ignored=ignored)
    data = datumaro.Dataset.import_from(str(unpacked(out, tmp_path / "zip")), "voc_segmentation")
    names = [label.name for label in data.categories()[datumaro.AnnotationType.label]]
    for image_id, raw in truth(pairs).items():
        labels = np.where(raw == 255, len(LABELS) if ignored else 0, raw)
        found = np.zeros_like(labels)
        for annotation in data.get(image_id, "default").annotations:
            assert not found[annotation.image].any()
            found[annotation.image] = names.index(annotation.attributes.get("", names[annotation.label]))
        assert np.array_equal(found, labels)
    assert names == [*LABELS, *([ignored] if ignored else [])]


def test_more_parts_than_colours_share_some(tmp_path: Path) -> None:
    """A chess board of 900 pixels that do not touch: no pixel is lost, and no object has two classes."""
    (pair,) = items(tmp_path, ("a",))
    labels = np.zeros((60, 60), np.uint8)
    labels[::2, ::2], labels[::2, ::4], labels[:9, :9] = 1, 2, 3
    write_mask(pair[2], labels, made_by="{}")
    Image.new("RGB", (60, 60)).save(pair[1])
    export(format_of("cvat"), Job(tmp_path / "out", LABELS), {"train": [pair]})
    with zipfile.ZipFile(tmp_path / "out/segmentation_mask.zip") as archive:
        pictured = np.array(Image.open(io.BytesIO(archive.read("SegmentationObject/a.png"))))
    found = objects(pictured, labels)
    assert 252 <= len(found) <= 255 and np.array_equal(pictured.any(axis=-1), labels > 0)
    assert (3, (labels == 3).tobytes()) in found


def test_voc_masks_have_vocs_palette_and_keep_255(tmp_path: Path) -> None:
    out, pairs, _ = exported("voc", tmp_path)
    for part, ids in (("train", NAMES[:3]), ("val", NAMES[3:])):
        assert (out / f"ImageSets/Segmentation/{part}.txt").read_text().splitlines() == ids
    names = colours((out / "labelmap.txt").read_text(encoding="utf-8"))
    for image_id, labels in truth(pairs).items():
        with Image.open(out / f"SegmentationClass/{image_id}.png") as mask:
            assert mask.mode == "P" and np.array_equal(mask, labels)
            coloured = np.array(mask.convert("RGB"))
        assert {names[tuple(colour)] for colour in coloured[labels == 255].tolist()} <= {"ignored"}
        assert {names[tuple(colour)] for colour in coloured[labels == 2].tolist()} <= {"dog"}
        assert (out / f"JPEGImages/{image_id}.jpg").is_file()


def test_datumaro_reads_the_voc_layout(tmp_path: Path) -> None:
    datumaro = pytest.importorskip("datumaro")
    out, pairs, _ = exported("voc", tmp_path)
    data = datumaro.Dataset.import_from(str(out), "voc_segmentation")
    names = [label.name for label in data.categories()[datumaro.AnnotationType.label]]
    assert names == [*LABELS, "ignored"]
    for image_id, labels in truth(pairs).items():
        found = np.full(labels.shape, 77)
        for annotation in data.get(image_id, "train").annotations:
            value = annotation.label
            found[annotation.image.astype(bool)] = 255 if names[value] == "ignored" else value
        assert np.array_equal(found, labels)
