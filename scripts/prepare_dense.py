"""The annotation files of a data set as they are distributed -> masks, a split file, image-level labels.

python -m scripts.prepare_dense context59 --raw trainval --split_file val.txt --masks_out masks --labels_out labels.txt
python -m scripts.prepare_dense cityscapes --raw gtFine/val --masks_out masks --split_out val.txt
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from cli import console
from cli.datasets import SPECS, spec_of
from cli.options import Parser
from cli.preparing import compared, make_masks, parse_outputs, report, write_lines
from common.arguments import positive
from common.errors import UserError
from common.files import check_place, need_dir, need_writable


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "Annotation files as distributed -> masks (class index, or class + 1 where 0 is background; 255 not scored), "
        "split file, image-level labels.",
        "docs/datasets.md says what each data set needs. Masks that are there are kept, so that an interrupted run is "
        "continued by repeating it.",
    )
    parser.add_argument(
        "dataset", choices=[name for name in SPECS if spec_of(name).raw], help="data set of the annotations"
    )
    parser.add_argument("--raw", type=Path, required=True, metavar="DIR", help="the folder of the annotation files")
    parser.add_argument(
        "--split_file", type=Path, metavar="FILE", help="only these images, one id a line; not given: all"
    )
    parser.add_argument("--num_workers", type=positive, default=2, help="files that are processed at a time")
    parser.add_argument("--overwrite", action="store_true", help="make masks again that are there already")
    return parse_outputs(parser, argv, labels=True)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    from dataset.annotations import MaskJob, annotation_of, find_files
    from dataset.split_file import read_split

    spec = spec_of(args.dataset)
    raw = spec.raw
    assert raw is not None
    form, files = find_files(raw, need_dir(args.raw, "--raw", raw.holds))
    if args.masks_out is not None:
        if args.masks_out.resolve().is_relative_to(args.raw.resolve()):  # the next run would take them for annotations
            raise UserError(f"--masks_out {args.masks_out}: inside --raw {args.raw}; choose a folder outside of it")
        need_writable(args.masks_out, "--masks_out")
    check_place(args.split_out, "--split_out", "split.txt")
    check_place(args.labels_out, "--labels_out", "labels.txt")
    ids = list(files) if args.split_file is None else read_split(args.split_file)
    print(f"files   {len(files)} *{form.ending} in {args.raw}; {compared(len(files), raw.counts)}")
    job = MaskJob(args.dataset, partial(annotation_of, form, files), args.masks_out, args.overwrite, files=files)
    tally, labels = make_masks(job, ids, args.num_workers)
    first = int(spec.has_background)  # mask value of the first class
    shown = {key: [value - first for value in values if value >= first] for key, values in labels.items()}
    listed = {key: classes for key, classes in shown.items() if classes or (first and labels[key])}
    if len(listed) < len(labels):  # the others can be neither labelled nor scored
        print(f"images  {len(labels) - len(listed)} show none of the classes and are not listed")
    if args.split_out is not None:
        write_lines(args.split_out, dict.fromkeys(listed, ()))
        print(f"split   {len(listed)} ids in {args.split_out}")
    if args.labels_out is not None:
        labelled = {key: classes for key, classes in listed.items() if classes}
        write_lines(args.labels_out, labelled)
        print(f"labels  of {len(labelled)} images in {args.labels_out}")
    return report(tally, args.masks_out)


if __name__ == "__main__":
    sys.exit(main())
