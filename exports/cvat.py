"""CVAT's "Segmentation mask 1.1": a zip of labelmap.txt, a list, and a colour PNG of classes and of objects an image.

An object is one connected part: CVAT does not import a mask of several. Nor does it import a colour that is not
declared, so pixels of 255 are background, or a class of their own with `ignored`.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np
from PIL import Image

from common.files import atomic_write
from dataset.palettes import voc_palette
from exports.files import Add, Example, Format, Job
from exports.objects import objects_of
from exports.voc import label_map

ARCHIVE = "segmentation_mask.zip"
MOST_OBJECTS = 255  # its table of colours has no more


@contextmanager
def writing(job: Job) -> Iterator[Add]:
    """segmentation_mask.zip; all parts are in its list, which CVAT matches with the images of a task by name."""
    numbers = {value: number for number, value in enumerate(job.classes, 1)}
    names = {0: "background"} | {number: job.labels[value] for value, number in numbers.items()}
    declared, listed = label_map(names), []
    with atomic_write(job.path(ARCHIVE)) as stream, ZipFile(stream, "w", ZIP_DEFLATED) as archive:

        def add(example: Example) -> None:
            table = np.zeros(256, np.uint8)
            table[list(numbers)] = list(numbers.values())
            _put(archive, f"SegmentationClass/{example.name}.png", _coloured(table[example.labels]))
            _put(archive, f"SegmentationObject/{example.name}.png", _coloured(_numbered(example.labels, numbers)))
            listed.append(example.name)

        yield add
        _put(archive, "ImageSets/Segmentation/default.txt", "".join(f"{name}\n" for name in listed))
        _put(archive, "labelmap.txt", declared)


def _numbered(labels: np.ndarray, values: dict[int, int]) -> np.ndarray:
    """(H, W) uint8: the number of the object that each pixel belongs to, from 1, largest first; 0 for none.

    Where there are more than MOST_OBJECTS, the smallest ones of each class share one number.
    """
    found = sorted(objects_of(labels, values), key=lambda one: -one.area)
    alone = len(found) if len(found) <= MOST_OBJECTS else MOST_OBJECTS - len({one.value for one in found})
    shared = {value: alone + 1 + index for index, value in enumerate(sorted({one.value for one in found[alone:]}))}
    numbers = np.zeros(labels.shape, np.uint8)
    for index, one in enumerate(found):
        height, width = one.crop.shape
        part = numbers[one.top : one.top + height, one.left : one.left + width]
        part[one.crop] = index + 1 if index < alone else shared[one.value]
    return numbers


def _coloured(numbers: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(voc_palette()[numbers]).save(stream, "PNG")
    return stream.getvalue()


FORMAT = Format(writing, ARCHIVE, shared="masks", keeps_255=False)


def _put(archive: ZipFile, name: str, content: bytes | str) -> None:
    """Without the time of day: the same masks give the same bytes."""
    archive.writestr(ZipInfo(name), content, ZIP_DEFLATED)
