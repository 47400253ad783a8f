"""Images + masks -> the files that another trainer wants: links, lists, a configuration. docs/trainers.md goes on.

python -m scripts.export_masks --for deeplab-pytorch --dataset voc12 --img_root VOC2012/JPEGImages \
    --masks output/voc12/masks --out output/voc12/for_deeplab
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cli import console
from cli.options import Parser, add_data_options
from common.errors import UserError
from exports.table import FORMATS, format_of

if TYPE_CHECKING:
    from cli.lookup import Selection


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "Images + masks -> links, lists and a configuration for another trainer.",
        "What was written is replaced; nothing else in --out is touched. docs/trainers.md says how to go on.",
    )
    parser.add_argument("--for", dest="trainer", choices=tuple(FORMATS), required=True, help="the trainer")
    parser.add_argument("--masks", type=Path, metavar="DIR", required=True, help="mask PNGs, named like the images")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="the output folder")
    parser.add_argument("--copy", action="store_true", help="copy files; not given: relative links")
    parser.add_argument("--val_split", type=Path, metavar="FILE", help="images to validate on, against --gt_root")
    parser.add_argument("--val_img_root", type=Path, metavar="DIR", help="where they are; not given: --img_root")
    add_data_options(parser, truth=True)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    from cli.lookup import select, select_from
    from common.files import need_dir, need_writable
    from exports.files import TRAIN, VALIDATION, export

    if args.gt_root is not None and args.val_split is None:
        raise UserError("--gt_root: only with --val_split FILE, the images to validate on")
    selection = select_from(args, images_needed=True, with_labels=args.labels != "clip")
    need_dir(args.masks, "--masks", "one mask PNG an image, as eval_cam_with_crf.py writes them")
    need_writable(args.out, "--out")
    form = format_of(args.trainer)
    items, failures = _items(selection, args.masks)
    result = export(form, TRAIN, items, args.out, args.copy)
    failures = [*selection.problems, *failures, *result.failures]
    print(f"{result.pairs} images with masks for {args.trainer} in {args.out}{_rewritten(result.palettes)}")
    if args.val_split is not None:
        images = args.val_img_root or args.img_root
        unseen = select(args.dataset, images, args.val_split, args.gt_root, args.classes, images_needed=True)
        items, missing = _items(unseen, unseen.need_masks())
        result = export(form, VALIDATION, items, args.out, args.copy)
        failures += [*missing, *result.failures]
        print(f"{result.pairs} images to validate on{_rewritten(result.palettes)}")
    path = form.configure(args.out, selection.spec.label_names, args.val_split is not None)
    print(f"{path}: see docs/trainers.md")
    return console.list_failures(failures)


def _items(selection: "Selection", masks: Path) -> tuple[list[tuple[str, Path, Path]], list[tuple[str, str]]]:
    """(id, image, mask) of the images that are there, and (id, reason) of the others."""
    from dataset.voc_layout import find_image

    items, failures = [], []
    for image_id in selection.ids:
        try:
            items.append((image_id, find_image(selection.paths.images, image_id), masks / f"{image_id}.png"))
        except UserError as error:
            failures.append((image_id, str(error)))
    return items, failures


def _rewritten(palettes: int) -> str:
    text = f"; {palettes} palette PNGs were written anew in grey, which every reader takes for labels"
    return text if palettes else ""


if __name__ == "__main__":
    sys.exit(main())
