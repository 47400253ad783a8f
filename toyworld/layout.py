"""Scenes as files in the VOC layout, with captions beside (captions.jsonl)."""

import io
import json
from pathlib import Path

import cv2
import numpy as np
from lxml import etree
from PIL import Image

from common.files import atomic_write, write_text
from dataset.palettes import voc_palette
from toyworld.captions import CONCEPTS, captions_of
from toyworld.names import CLASSES
from toyworld.scenes import Scene, draw_scene

CAPTIONS = 5  # of a scene, as many as COCO has
JPEG_QUALITY = 95  # without chroma subsampling: the CRF's colour kernel is 3 levels wide


def write_dataset(out: Path, seed: int, count: int) -> list[str]:
    """Draw `count` scenes and write images, annotations, masks, captions and, last, the split file. Returns the ids.

    The same seed writes the same bytes; scene i does not depend on `count`.
    """
    ids, captions = [f"toy_{seed}_{index:04d}" for index in range(count)], []
    for index, image_id in enumerate(ids):
        scene = draw_scene(seed, index)
        write_scene(out, image_id, scene)
        present = np.isin(CONCEPTS, (*scene.classes, *scene.backgrounds))
        told = captions_of(seed, index, present, CAPTIONS)
        captions.append(json.dumps({"image": f"{image_id}.jpg", "captions": told}) + "\n")
    write_text(out / "captions.jsonl", "".join(captions))
    write_text(out / "ImageSets" / "Segmentation" / "train.txt", "".join(f"{image_id}\n" for image_id in ids))
    return ids


def write_scene(out: Path, image_id: str, scene: Scene) -> None:
    """The three files of one scene."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    full_chroma = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    _, jpeg = cv2.imencode(".jpg", scene.image[..., ::-1], quality + full_chroma)
    files = {
        out / "JPEGImages" / f"{image_id}.jpg": jpeg.tobytes(),
        out / "Annotations" / f"{image_id}.xml": annotation(image_id, scene),
        out / "SegmentationClass" / f"{image_id}.png": palette_png(scene.mask),
    }
    for path, data in files.items():
        with atomic_write(path) as stream:
            stream.write(data)


def annotation(image_id: str, scene: Scene) -> bytes:
    """VOC's XML: size, and name and box of every object in drawing order; boxes are 1-based and inclusive, as VOC's."""
    height, width = scene.mask.shape
    root = etree.Element("annotation")
    etree.SubElement(root, "filename").text = f"{image_id}.jpg"
    _numbers(etree.SubElement(root, "size"), {"width": width, "height": height, "depth": 3})
    etree.SubElement(root, "segmented").text = "1"
    for name in scene.classes:
        rows, columns = np.nonzero(scene.mask == CLASSES.index(name) + 1)
        item = etree.SubElement(root, "object")
        etree.SubElement(item, "name").text = name
        box = {"xmin": columns.min(), "ymin": rows.min(), "xmax": columns.max(), "ymax": rows.max()}
        _numbers(etree.SubElement(item, "bndbox"), {edge: int(value) + 1 for edge, value in box.items()})
    return etree.tostring(root, pretty_print=True)


def _numbers(parent: etree._Element, values: dict[str, int]) -> None:
    for name, value in values.items():
        etree.SubElement(parent, name).text = str(value)


def palette_png(mask: np.ndarray) -> bytes:
    """(H, W) uint8 labels as a PNG in VOC's palette."""
    image = Image.fromarray(mask).convert("P")
    image.putpalette(voc_palette().tobytes())
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
