"""Command-line options of scripts/pretrain_segclip.py, and what goes together."""

import argparse
from pathlib import Path

from cli.options import DATASETS, Parser, add_settings
from common.arguments import not_negative, positive
from common.errors import UserError
from segclip.training.settings import Settings

MADE = "make"  # --superpixels: they are made when they are needed


def add_pretraining_options(parser: Parser) -> None:
    """All options."""
    add = parser.add_argument_group("data").add_argument
    add(
        "--data",
        nargs="+",
        required=True,
        metavar="DATA",
        help="a folder of images with captions, or tar files as img2dataset writes them (names, folders, {00..17}.tar)",
    )
    add(
        "--captions",
        type=Path,
        metavar="FILE",
        help='of a folder: JSON Lines {"image": "a.jpg", "caption": "a dog"}, CSV with the header image,caption, COCO '
        "captions, or Karpathy's dataset_coco.json; else captions.jsonl, .csv or .json or dataset_coco.json there",
    )
    add("--splits", nargs="+", default=["train"], metavar="NAME", help="of Karpathy's file: train, restval, ...")
    add(
        "--superpixels",
        metavar=f"DIR|{MADE}",
        help=f"maps that scripts/superpixels.py made of a folder; {MADE}: when they are needed, which takes longer "
        "than to read them; not given: DATA-superpixels if it is there, else made; of tar files, those in them",
    )
    add = parser.add_argument_group("run").add_argument
    add("--init", required=True, metavar="FILE|NAME", help="the CLIP to start from: --model of generate_cams.py")
    add("--pretrained", metavar="TAG|FILE", help="as there; with a name only")
    add("--activation", choices=("auto", "quick_gelu", "gelu"), default="auto", help="of its MLPs")
    add("--out", type=Path, metavar="DIR", required=True, help="where weights, checkpoints and logs go")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add("--readers", type=int, metavar="N", help="processes that read; not given: 8 on a GPU, else 0")
    add("--save_every", type=positive, metavar="N", help="iterations; not given: a fiftieth of the run")
    add("--keep", type=positive, default=2, metavar="N", help="checkpoints that stay")
    add("--overwrite", action="store_true", help="begin again, whatever --out holds of an earlier run")
    add_settings(parser, "network and learning (defaults: as published, for 8 processes)", Settings)
    add = parser.add_argument_group("validation: zero-shot masks of images that are not trained on").add_argument
    add("--val_dataset", choices=DATASETS, help="whose classes and layout; not given: no validation")
    add("--val_img_root", type=Path, metavar="DIR", help="as --img_root of generate_cams.py")
    add("--val_split", type=Path, metavar="FILE", help="as --split_file there")
    add("--val_classes", type=Path, metavar="FILE", help="as --classes there")
    add("--gt_root", type=Path, metavar="DIR", help="as there")
    add("--val_images", type=positive, default=200, metavar="N", help="how many of them, the first ones")
    add("--val_every", type=positive, metavar="N", help="iterations; not given: a tenth of the run")
    add(
        "--background_threshold",
        type=not_negative,
        metavar="X",
        help="of the validation, as with --method segclip; not given: the data set's",
    )


def check(args: argparse.Namespace) -> None:
    """Raise UserError for options that do not go together."""
    if args.crop_areas[0] > args.crop_areas[1] or not args.crop_areas[0]:
        raise UserError(f"--crop_areas {args.crop_areas[0]:g} {args.crop_areas[1]:g}: expected the smaller one first")
    if args.max_words < 3:
        raise UserError(f"--max_words {args.max_words}: expected at least 3: start, a word, end")
    if args.warmup >= 1:
        raise UserError(f"--warmup {args.warmup:g}: expected a share of the run below 1, such as 0.15")
    if args.val_dataset is None and (args.val_img_root or args.val_split or args.gt_root or args.val_classes):
        raise UserError("--val_img_root, --val_split, --val_classes, --gt_root: go with --val_dataset")
    if args.superpixels and args.no_superpixels:
        raise UserError("--superpixels: without --no_superpixels only")
