"""COCO's instances file -> the split file with image-level labels, and VOC-style masks to score against.

python -m scripts.prepare_coco14 --annotations instances_train2014.json --masks_out masks/train --split_out train.txt
"""

import argparse
import sys
from pathlib import Path

from cli import console
from cli.options import Parser
from common.errors import EXIT_OK, UserError


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
    from coco14.annotations import class_indices, images_by_id, labels_of, mask_of
    from common.files import need_file, write_text
    from dataset.annotations import MaskJob, prepare
    from dataset.readers.coco import EXPECTED, read_coco

    coco = read_coco(need_file(args.annotations, "--annotations", EXPECTED))
    indices = class_indices(coco)
    images = images_by_id(coco)
    if not images:
        raise UserError(f"{args.annotations}: no image has an object; expected {EXPECTED}")
    _count(args.annotations, len(coco.images), len(images))
    if args.split_out is not None:
        labels = {key: labels_of(coco, image, indices) for key, image in images.items()}
        lines = (f"{' '.join([key, *map(str, values)])}\n" for key, values in labels.items())
        write_text(args.split_out, "".join(lines))
        print(f"split   {len(images)} lines in {args.split_out}")
    if args.masks_out is None:
        print("masks   not written: no --masks_out")
        return EXIT_OK
    tally = console.Tally()
    job = MaskJob("coco14", lambda key: mask_of(coco, images[key], indices), args.masks_out, overwrite=True)
    for outcome in console.progress((outcome for outcome, _ in prepare(job, images)), len(images), "masks"):
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


if __name__ == "__main__":
    sys.exit(main())
