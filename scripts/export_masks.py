"""Images + masks -> the files that another tool or trainer reads. docs/exports.md lists the formats.

python -m scripts.export_masks --to coco --dataset folder --img_root photos --classes classes.txt \
    --masks output/folder/masks --out output/folder/coco
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
    from dataset.mask_folder import Masks
    from exports.files import Exported, Format


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "Images + masks -> what another tool reads: annotations, configurations, links to the images.",
        "What was written is replaced; nothing else in --out is touched. docs/exports.md says what each format holds.",
    )
    parser.add_argument("--to", "--for", choices=tuple(FORMATS), required=True, help="the format")
    parser.add_argument("--masks", type=Path, metavar="DIR", required=True, help="mask PNGs, named like the images")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="the output folder")
    parser.add_argument(
        "--copy", action="store_true", help="copy files; not given: relative links, where the tool follows them"
    )
    parser.add_argument("--val_split", type=Path, metavar="FILE", help="images to validate on, against --gt_root")
    parser.add_argument("--val_img_root", type=Path, metavar="DIR", help="where they are; not given: --img_root")
    parser.add_argument("--polygons", action="store_true", help="coco, labelme: outlines in place of exact masks")
    parser.add_argument("--ignored", metavar="NAME", default="", help="make the pixels of 255 a class of this name")
    parser.add_argument("--push", metavar="USER/NAME", help="hf: upload the result as a private data set of this name")
    add_data_options(parser, truth=True)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    from cli.lookup import select, select_from
    from common.files import need_dir, need_writable
    from dataset.mask_folder import mask_folder
    from exports.files import TRAIN, VALIDATION, Job, export

    form, token = format_of(args.to), ""
    if args.gt_root is not None and args.val_split is None:
        raise UserError("--gt_root: only with --val_split FILE, the images to validate on")
    _check_options(args, form)
    if args.push:
        from exports.hf import check_push

        token = check_push(args.push)
    selection = select_from(args, images_needed=True, with_labels=args.labels != "clip")
    if args.ignored in selection.spec.label_names:
        raise UserError(f"--ignored {args.ignored}: a class of that name is there already; choose another name")
    for images in (selection.paths.images, args.val_img_root):
        if images is not None and images.resolve().is_relative_to(args.out.resolve()):
            raise UserError(f"--out {args.out}: holds the images themselves, {images}; choose another folder")
    need_dir(args.masks, "--masks", "one mask PNG an image, as eval_cam_with_crf.py writes them")
    if args.masks.resolve().is_relative_to(args.out.resolve()):
        raise UserError(f"--out {args.out}: holds the masks themselves, {args.masks}; choose another folder")
    masks = selection.as_given(args.masks)
    selection.check_masks(masks, "--masks")
    need_writable(args.out, "--out")
    pairs, failures = _items(selection, masks)
    items = {TRAIN: pairs}
    if args.val_split is not None:
        images = args.val_img_root or args.img_root
        unseen = select(args.dataset, images, args.val_split, args.gt_root, args.classes, images_needed=True)
        items[VALIDATION], missing = _items(unseen, unseen.need_masks())
        failures += missing
    spec = selection.spec
    job = Job(
        args.out,
        spec.label_names,
        spec.has_background,
        args.val_split is not None,
        args.copy,
        args.polygons,
        args.ignored,
        dict(enumerate(spec.numbers, int(spec.has_background))),
        values=mask_folder(masks).values,
    )
    result = export(form, job, items)
    _tell(args, form, result)
    if args.push:
        from exports.hf import push

        print(f"uploaded to {push(args.out, args.push, token)}")
    return console.list_failures([*selection.problems, *failures, *result.failures])


def _check_options(args: argparse.Namespace, form: "Format") -> None:
    """Raise UserError for an option of another format."""
    for name in ("polygons", "push"):
        if getattr(args, name) and name not in form.options:
            takers = [other for other in FORMATS if name in format_of(other).options]
            raise UserError(f"--{name} goes with --to {' or '.join(takers)}; not with {args.to}")


def _items(selection: "Selection", masks: "Masks") -> tuple[list[tuple[str, Path, Path]], list[tuple[str, str]]]:
    """(id, image, mask) of the images that are there, and (id, reason) of the others."""
    from dataset.mask_folder import mask_folder
    from dataset.voc_layout import find_image

    items, failures = [], []
    for image_id in selection.ids:
        try:
            items.append((image_id, find_image(selection.paths.images, image_id), mask_folder(masks).path(image_id)))
        except UserError as error:
            failures.append((image_id, str(error)))
    return items, failures


def _tell(args: argparse.Namespace, form: "Format", result: "Exported") -> None:
    """Print what was written, and what became of masks that the format cannot hold as they are."""
    from exports.files import TRAIN, VALIDATION

    print(f"{result.pairs[TRAIN]} images with masks for {args.to} in {args.out}")
    if args.val_split is not None:
        print(f"{result.pairs[VALIDATION]} images to validate on")
    if result.palettes:
        print(f"{result.palettes} masks were palette PNGs: their labels were read, not their colours")
    if result.unsure and not form.keeps_255:
        remedy = "--ignored NAME makes a class of it"
        print(f"{result.unsure} masks hold 255 (not sure), which {args.to} cannot tell from background; {remedy}")
    if result.strangers:
        first, remedy = args.out / result.strangers[0], "remove them, or choose an empty --out"
        text = f"warning: {len(result.strangers)} files that were there before will be taken for part of the data"
        print(f"{text}, such as {first}; {remedy}", file=sys.stderr)
    print(f"{args.out / form.main}: see docs/exports.md")


if __name__ == "__main__":
    sys.exit(main())
