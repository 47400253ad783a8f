"""What every export format shares: images and masks are put in their places, and listed.

An exporter describes its layout and its configuration in one file; exports/table.py names them all.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.files import cannot_write, write_text
from common.images import image_size, opened
from common.provenance import check_source
from dataset.mask_png import read_mask, write_mask
from pipeline.stages.evaluate import mask_record

TRAIN, VALIDATION = "train", "val"


@dataclass(frozen=True)
class Part:
    """Where one part of the data goes, "train" or "val"; paths below the folder that is written."""

    images: str
    masks: str
    list: str


@dataclass(frozen=True)
class Format:
    """How a trainer wants images and masks.

    parts      the places of TRAIN and VALIDATION
    line       a line of the lists, from a part and a name
    configure  writes what tells the trainer of the data, given the folder, the label names and whether there is a
               validation part; returns the file
    name       an id as the lists can hold it
    """

    parts: dict[str, Part]
    line: Callable[[Part, str], str]
    configure: Callable[[Path, Sequence[str], bool], Path]
    name: Callable[[str], str] = str


@dataclass
class Exported:
    """What was written: how many pairs, how many masks were palette PNGs, and (id, reason) of what was left out."""

    pairs: int
    palettes: int
    failures: list[tuple[str, str]]


def export(form: Format, part: str, items: Sequence[tuple[str, Path, Path]], out: Path, copy: bool = False) -> Exported:
    """Write one part, "train" or "val", of the data: (id, image, mask) each.

    Images become `<name>.jpg` whatever they are: trainers look into a file, not at its suffix. Masks of mode P are
    written anew in mode L, since readers that turn colours into grey (cv2.IMREAD_GRAYSCALE) would get wrong labels.
    copy  files instead of relative links
    Raises UserError when nothing at all could be exported.
    """
    place, done = form.parts[part], Exported(0, 0, [])
    ids: dict[str, str] = {}  # by name
    for image_id, image, mask in items:
        try:
            name = form.name(image_id)
            if name in ids:
                raise UserError(f"{image_id}: has the name of {ids[name]} in the lists; rename one of them")
            images, masks = out / place.images / f"{name}.jpg", out / place.masks / f"{name}.png"
            done.palettes += _put_pair(image, mask, images, masks, copy)
            ids[name] = image_id
        except UserError as error:
            done.failures.append((image_id, str(error)))
    if not ids:
        raise UserError(f"nothing to export: {done.failures[0][1] if done.failures else 'no image in the split'}")
    write_text(out / place.list, "".join(f"{form.line(place, name)}\n" for name in ids))
    done.pairs = len(ids)
    return done


def _put_pair(image: Path, mask: Path, image_place: Path, mask_place: Path, copy: bool) -> bool:
    """Put an image and its mask in their places; returns whether the mask was a palette PNG."""
    with opened(mask, ("PNG",), "mask") as picture:
        mode, size = picture.mode, (picture.height, picture.width)
    if image_size(image) != size:
        raise UserError(f"{mask}: size {size} for an image of {image_size(image)}; made from other images?")
    check_source(mask, mask_record(mask), image)
    _put(image, image_place, copy)
    if mode == "L":
        _put(mask, mask_place, copy)
        return False
    labels = read_mask(mask)
    mask_place.unlink(missing_ok=True)  # it may be a link to the mask itself
    write_mask(mask_place, labels)
    return True


def _put(source: Path, place: Path, copy: bool) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        if copy:
            shutil.copyfile(source, place)
        else:
            place.symlink_to(os.path.relpath(source.resolve(), place.parent.resolve()))
    except OSError as error:
        raise cannot_write(place, error) from error
