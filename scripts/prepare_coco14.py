"""COCO's instances file -> the split file with image-level labels, and VOC-style masks to score against.

python -m scripts.prepare_coco14 --annotations instances_train2014.json --masks_out masks/train --split_out train.txt
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cli import console
from cli.options import Parser
from cli.preparing import compared, make_masks, parse_outputs, report, write_lines
from common.errors import UserError
from common.files import need_file

if TYPE_CHECKING:
    import numpy as np


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "COCO 2014 annotations -> split file (`id 45 49 50`, 0-based) and masks (class index + 1, crowds 255).",
        "Annotations: annotations_trainval2014.zip of cocodataset.org. Images without any object are left out.",
    )
    parser.add_argument("--annotations", type=Path, required=True, metavar="JSON", help="instances_train2014.json")
    return parse_outputs(parser, argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    from coco14.annotations import class_indices, images_by_id, labels_of
    from coco14.masks import draw_mask
    from coco14.spec import SPLIT_SIZES
    from dataset.annotations import MaskJob
    from dataset.readers.coco import EXPECTED, read_coco

    coco = read_coco(need_file(args.annotations, "--annotations", EXPECTED))
    indices = class_indices(coco)
    images = images_by_id(coco)
    if not images:
        raise UserError(f"{args.annotations}: no image has an object; expected {EXPECTED}")
    sizes = compared(len(images), SPLIT_SIZES)
    print(f"images  {len(images)} with objects, of {len(coco.images)} in {args.annotations}; {sizes}")
    if args.split_out is not None:
        write_lines(args.split_out, {key: labels_of(coco, image, indices) for key, image in images.items()})
        print(f"split   {len(images)} lines in {args.split_out}")
    if args.masks_out is None:
        return report(console.Tally(), None)

    def read(key: str) -> "np.ndarray":
        image = images[key]
        return draw_mask(image.size, coco.annotations[image.id], indices, f"{coco.path}, image id {image.id}")

    job = MaskJob("coco14", read, args.masks_out, overwrite=True)
    tally, _ = make_masks(job, images)
    return report(tally, args.masks_out)


if __name__ == "__main__":
    sys.exit(main())
