"""COCO's instances file -> the split file with image-level labels, and VOC-style masks to score against.

python -m scripts.prepare_coco14 --annotations instances_train2014.json --masks_out masks/train --split_out train.txt
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cli import console
from cli.options import Parser
from common.errors import EXIT_OK, UserError

if TYPE_CHECKING:
    from dataset.coco_json import CocoFile


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "COCO 2014 annotations -> split file (`id 45 49 50`, 0-based) and masks (class index + 1, crowds 255).",
        "Annotations: annotations_trainval2014.zip of cocodataset.org. Images without any object are left out.",
    )
    parser.add_argument("--annotations", type=Path, required=True, metavar="JSON", help="instances_train2014.json")
    parser.add_argument("--masks_out", type=Path, metavar="DIR", help="where the masks go, one <id>.png an image")
    parser.add_argument("--split_out", type=Path, metavar="FILE", help="where the split file goes")
    args = parser.parse_args(argv)
    if args.masks_out is None and args.split_out is None:
        parser.error("nothing to do: expected --masks_out DIR, --split_out FILE, or both")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    from coco14.annotations import class_indices, labels_by_id
    from common.files import need_file, write_text
    from dataset.coco_json import EXPECTED, read_coco

    coco = read_coco(need_file(args.annotations, "--annotations", EXPECTED))
    indices = class_indices(coco)
    labels = labels_by_id(coco, indices)
    if not labels:
        raise UserError(f"{args.annotations}: no image has an object; expected {EXPECTED}")
    _count(args.annotations, len(coco.images), len(labels))
    if args.split_out is not None:
        lines = (f"{' '.join([key, *map(str, values)])}\n" for key, values in labels.items())
        write_text(args.split_out, "".join(lines))
        print(f"split   {len(labels)} lines in {args.split_out}")
    if args.masks_out is None:
        print("masks   not written: no --masks_out")
        return EXIT_OK
    tally = console.Tally()
    for outcome in console.progress(_masks(coco, indices, args.masks_out), len(labels), "masks"):
        tally.add(outcome)
    return tally.report("masks", args.masks_out)


def _count(path: Path, images: int, labelled: int) -> None:
    """Say what is there beside what COCO 2014 has."""
    from coco14 import spec

    whole = {
        spec.TRAIN_IMAGES: f"train {spec.TRAIN_IMAGES} of {spec.ALL_TRAIN_IMAGES}",
        spec.VAL_IMAGES: f"val {spec.VAL_IMAGES} of {spec.ALL_VAL_IMAGES}",
    }
    expected = whole.get(labelled)
    verdict = f"as expected, {expected}" if expected else f"expected {' or '.join(whole.values())}: not the whole set"
    print(f"images  {labelled} with objects, of {images} in {path}; {verdict}")


def _masks(coco: "CocoFile", indices: dict[int, int], out: Path) -> Iterator[console.Outcome]:
    from coco14.annotations import file_id
    from coco14.masks import draw_mask
    from dataset.mask_png import write_mask

    for image in coco.images:
        items = coco.annotations[image.id]
        if not items:
            continue
        key = file_id(coco.path, image.file_name)
        try:
            mask = draw_mask(image.size, items, indices, f"{coco.path}, image id {image.id}")
        except UserError as error:
            yield console.Outcome(key, "failed", str(error))
            continue
        write_mask(out / f"{key}.png", mask)
        yield console.Outcome(key, "made")


if __name__ == "__main__":
    sys.exit(main())
