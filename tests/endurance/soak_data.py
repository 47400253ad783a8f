"""The data of the soak: a long list of images in VOC layout, whole ones of many kinds and broken ones."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from common.files import write_text
from tests.endurance.broken import LONG_ID, ODD, Break, Files
from toyworld.layout import palette_png, write_scene
from toyworld.scenes import Style, draw_scene

SIDES = (96, 144)  # of a scene, in pixels
SEED = 4242
SPLIT = Path("ImageSets/Segmentation/train.txt")


@dataclass(frozen=True)
class Source:
    """A whole image with its annotation and mask, which many ids stand for; size (H, W) as other programs see it."""

    name: str
    image: Path
    xml: Path
    mask: Path
    size: tuple[int, int]


@dataclass
class DataSet:
    """A list of images; the source of each whole one, and how each broken one was broken, by id."""

    root: Path
    ids: list[str] = field(default_factory=list)
    whole: dict[str, Source] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def add(self, image_id: str, source: Source) -> tuple[Path, Path]:
        """Link an id to the files of a source; returns its image and its annotation."""
        targets = {
            self.root / "JPEGImages" / f"{image_id}{source.image.suffix}": source.image,
            self.root / "Annotations" / f"{image_id}.xml": source.xml,
            self.root / "SegmentationClass" / f"{image_id}.png": source.mask,
        }
        for target, origin in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(origin)
        image, xml, _ = targets
        return image, xml


# --- sources --------------------------------------------------------------------------------------


def make_sources(root: Path, count: int) -> list[Source]:
    """So many small scenes and one image of each odd kind, as a data set of their own; its list runs backwards."""
    style, names = Style(heights=SIDES, widths=SIDES), [f"scene_{index:03d}" for index in range(count)]
    for index, name in enumerate(names):
        write_scene(root, name, draw_scene(SEED, index, style))
    for index, name in enumerate(ODD):
        _write_odd(root, name, SEED + 1 + index, style)
    write_text(root / SPLIT, "".join(f"{name}\n" for name in reversed([*names, *ODD])))
    return [_source(root, name, ODD[name][0] if name in ODD else ".jpg") for name in [*names, *ODD]]


def _write_odd(root: Path, name: str, seed: int, style: Style) -> None:
    suffix, of_picture = ODD[name]
    scene = draw_scene(seed, 0, style)
    write_scene(root, name, scene)
    (root / "JPEGImages" / f"{name}.jpg").unlink()
    image = root / "JPEGImages" / f"{name}{suffix}"
    image.write_bytes(of_picture(Image.fromarray(scene.image)))
    (root / "SegmentationClass" / f"{name}.png").write_bytes(palette_png(np.zeros(seen_size(image), np.uint8)))
    if name == "no_objects":
        (root / "Annotations" / f"{name}.xml").write_text("<annotation></annotation>")


def _source(root: Path, name: str, suffix: str) -> Source:
    image = root / "JPEGImages" / f"{name}{suffix}"
    xml, mask = root / "Annotations" / f"{name}.xml", root / "SegmentationClass" / f"{name}.png"
    return Source(name, image, xml, mask, seen_size(image))


def seen_size(image: Path) -> tuple[int, int]:
    """(H, W) of a picture held upright, by PIL alone."""
    with Image.open(image) as opened:
        width, height = ImageOps.exif_transpose(opened).size
    return height, width


# --- the list -------------------------------------------------------------------------------------


def make_set(
    root: Path, outside: Path, sources: Sequence[Source], breaks: Mapping[str, Break], count: int, share: float
) -> DataSet:
    """A list of `count` images, of which a share is broken, each way at least once, at places that are drawn.

    outside  a folder that no image may lead to
    """
    rng, data = random.Random(count), DataSet(root)
    kinds = list(breaks) * (1 + round(share * count) // len(breaks))
    kinds = kinds[: max(len(breaks), round(share * count))]
    broken_at = dict(zip(rng.sample(range(count), len(kinds)), kinds))
    scenes = [source for source in sources if source.name not in ODD]
    for place in range(count):
        if kind := broken_at.get(place):
            _add_broken(data, f"{place:06d}_{kind}", kind, breaks[kind], scenes[place % len(scenes)], outside)
        else:
            source = sources[place % len(sources)]
            name = Path(source.name)
            _add_whole(data, str(name.with_name(f"{place:06d}_{name.name}")), source)
    write_text(root / SPLIT, "".join(f"{image_id}\n" for image_id in data.ids))
    return data


def _add_whole(data: DataSet, image_id: str, source: Source) -> None:
    data.add(image_id, source)
    data.ids.append(image_id)
    data.whole[image_id] = source


def _add_broken(data: DataSet, image_id: str, kind: str, do: Break, source: Source, outside: Path) -> None:
    if kind == LONG_ID:
        image_id = image_id.ljust(300, "x")
    else:
        do(Files(*data.add(image_id, source), outside))
    data.ids.append(image_id)
    data.broken[image_id] = kind
