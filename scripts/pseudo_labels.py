"""Maps + masks of the seen classes -> masks for self-training: what is labelled stays, the rest gets an unseen class.

python -m scripts.pseudo_labels --dataset voc20 --img_root VOC2012/JPEGImages --split_file train.txt \
    --cam_out_dir output/voc20/cams --seen_masks masks/train --threshold 0.06 --out output/voc20/pseudo
python -m scripts.pseudo_labels --dataset toyworld --masks output/toyworld/masks \
    --seen_masks output/toyworld/data/SegmentationClass --out output/toyworld/pseudo
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cli import console
from cli.options import Parser, add_cam_dir, add_data_options, output_dir
from common.arguments import positive, share
from common.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from dataset.spec import DatasetSpec


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "Maps or masks of all classes (generate_cams.py --labels all) + masks of the seen ones -> masks to train on.",
        "Pixels of seen classes in --seen_masks keep their label, and so does the background where there are maps; all "
        "others get the class with the best score, or that of --masks. Masks that are there are kept, so that an "
        "interrupted run is continued by repeating it.",
    )
    add_data_options(parser, truth=False)
    add_cam_dir(parser, "where the maps are")
    add = parser.add_argument
    add(
        "--masks",
        type=Path,
        metavar="DIR",
        help="mask PNGs of all classes in place of maps, as eval_cam_with_crf.py writes them; their background is "
        "taken too, and where they show a seen class that is not there, a pixel is rejected",
    )
    add("--seen_masks", type=Path, metavar="DIR", required=True, help="mask PNGs; unseen classes in them are not used")
    add("--out", type=Path, metavar="DIR", required=True, help="where the masks go")
    add("--compete", choices=("unseen", "all"), default="unseen", help="which classes the other pixels may get")
    add("--threshold", type=share, default=0.0, help="least softmax, over all classes, with which a class is taken")
    add(
        "--rejected",
        choices=("255", "num_classes"),
        default="255",
        help="what such pixels get; num_classes as the published code, whose masks no trainer here takes",
    )
    add("--num_workers", type=positive, default=2, help="images that are processed at a time")
    add("--overwrite", action="store_true", help="make masks again that are there already")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    from cli.lookup import select_from
    from cli.preparing import make_masks
    from common.files import need_any, need_dir, need_writable
    from dataset.annotations import MaskJob

    selection = select_from(args, with_labels=False)
    spec = selection.spec
    if not spec.unseen:
        raise UserError(f"--dataset {spec.name}: no split into seen and unseen classes")
    if args.masks and (args.cam_out_dir or args.compete != "unseen" or args.threshold):
        raise UserError("--masks: --cam_out_dir, --compete and --threshold are for maps; leave them out")
    option, holds = "--cam_out_dir", "maps of generate_cams.py"
    if args.masks:
        option, holds = "--masks", "one mask PNG an image"
    place = need_dir(args.masks or args.cam_out_dir or output_dir(args.dataset, "cams"), option, holds)
    need_dir(args.seen_masks, "--seen_masks", "one mask PNG an image")
    for masks in filter(None, (args.masks, args.seen_masks)):
        if masks.resolve() == args.out.resolve():  # what is read would be overwritten
            raise UserError(f"--out {args.out}: the masks there are read; choose another folder")
    settings = {} if args.masks else {"compete": args.compete, "threshold": args.threshold}
    settings |= {"rejected": args.rejected}
    files = {image_id: place / f"{image_id}{'.png' if args.masks else '.npz'}" for image_id in selection.ids}
    need_any(place, files.values(), option, holds)
    need_writable(args.out, "--out")
    files = {image_id: path for image_id, path in files.items() if path.is_file()}
    name = f"{spec.name} pseudo {'masks ' if args.masks else ''}{settings}"
    read = (_over_masks if args.masks else _labels_of)(args, spec, place)
    job = MaskJob(name, read, args.out, args.overwrite, files=files, option="--out")
    tally, labels = make_masks(job, selection.ids, args.num_workers)
    used = sorted({value for values in labels.values() for value in values if value < spec.num_labels})
    print(f"labels  {', '.join(spec.label_names[value] for value in used) or 'none'}")
    return tally.report("masks", args.out)


def _labels_of(args: argparse.Namespace, spec: "DatasetSpec", cams: Path) -> "Callable[[str], np.ndarray]":
    """Makes the mask of an id. Raises UserError for maps that do not hold all classes, or of another size."""
    import numpy as np

    from dataset.spec import IGNORE_INDEX
    from pipeline.files.cam_file import read_maps
    from pipeline.stages.evaluate import check_shape, read_truth
    from pipeline.steps.maps import strips
    from zsseg.pseudo_labels import pseudo_labels

    first, classes = int(spec.has_background), len(spec.classes)
    rejected = spec.num_labels if args.rejected == "num_classes" else IGNORE_INDEX

    def read(image_id: str) -> np.ndarray:
        path = cams / f"{image_id}.npz"
        stored = read_maps(path, "attn_highres", classes)
        if sorted(stored.keys.tolist()) != list(range(classes)):
            raise UserError(f"{path}: maps of {len(stored.keys)} classes of {classes}; make them with --labels all")
        truth = read_truth(args.seen_masks, image_id, spec.num_labels, "mask")
        check_shape(path, stored.size, truth)
        mask = np.empty(truth.shape, np.uint8)
        for rows in strips(stored.size, classes):
            scores = stored.rows(rows)[np.argsort(stored.keys)]
            known = truth[rows].astype(np.int64) - first
            labels = pseudo_labels(scores, known, spec.seen, args.compete == "unseen", args.threshold)
            labels = np.where(labels == IGNORE_INDEX, rejected, labels + first)
            mask[rows] = np.where(known < 0, 0, labels)  # the background, where there is one, is known too
        return mask

    return read


def _over_masks(args: argparse.Namespace, spec: "DatasetSpec", masks: Path) -> "Callable[[str], np.ndarray]":
    """Makes the mask of an id. Raises UserError for masks of another size."""
    from dataset.spec import IGNORE_INDEX
    from pipeline.stages.evaluate import check_shape, read_truth
    from zsseg.pseudo_labels import completed

    first = int(spec.has_background)
    rejected = spec.num_labels if args.rejected == "num_classes" else IGNORE_INDEX
    seen = [index + first for index in spec.seen]

    def read(image_id: str) -> "np.ndarray":
        found, truth = (read_truth(folder, image_id, spec.num_labels, "mask") for folder in (masks, args.seen_masks))
        check_shape(masks / f"{image_id}.png", found.shape, truth)
        return completed(found, truth, seen, rejected)

    return read


if __name__ == "__main__":
    sys.exit(main())
