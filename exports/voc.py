"""PASCAL VOC's segmentation layout: palette PNGs with 255 for "do not care", images, lists, names of colours."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from common.errors import UserError
from common.files import write_text
from dataset.mask_png import write_mask
from dataset.palettes import voc_palette
from dataset.spec import IGNORE_INDEX
from exports.files import Add, Example, Format, Job


def label_map(names: Mapping[int, str]) -> str:
    """labelmap.txt, as Datumaro and CVAT read it, for labels that have VOC's colour of their number.

    Raises UserError for a name with a colon, at which its lines are cut.
    """
    lines = ["# label:color_rgb:parts:actions\n"]
    for number, name in names.items():
        if ":" in name:
            raise UserError(f"class {name!r}: labelmap.txt cannot hold a name with a colon; rename it")
        lines.append(f"{name}:{','.join(str(part) for part in voc_palette()[number].tolist())}::\n")
    return "".join(lines)


@contextmanager
def writing(job: Job) -> Iterator[Add]:
    """JPEGImages, SegmentationClass, ImageSets/Segmentation/<part>.txt, labelmap.txt."""
    names = dict(enumerate(job.labels))
    label_map_text = label_map(names | {IGNORE_INDEX: "ignored"})
    lists: dict[str, list[str]] = {part: [] for part in job.parts}

    def add(example: Example) -> None:
        job.place_image(example, "JPEGImages", ".jpg")
        write_mask(job.path(f"SegmentationClass/{example.name}.png"), example.labels, palette=True)
        lists[example.part].append(example.name)

    yield add
    for part, found in lists.items():
        write_text(job.path(f"ImageSets/Segmentation/{part}.txt"), "".join(f"{name}\n" for name in found))
    write_text(job.path("labelmap.txt"), label_map_text)


FORMAT = Format(writing, "labelmap.txt", shared="masks")
