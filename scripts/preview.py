"""A picture of the stages on a few images: photo, truth, CAM, refined CAM, CRF labels, mask.

python -m scripts.preview --out output/toyworld/preview.png
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cli import console
from cli.options import Parser, add_cam_dir, add_data_options, output_dir
from common.arguments import positive
from common.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from pipeline.stages.crf import CrfJob


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser("Images + CAM files -> one picture that shows the stages side by side.")
    add_data_options(parser, truth=True)
    add_cam_dir(parser, "where the CAM files are")
    parser.add_argument("--count", type=positive, default=8, help="images to show, spread over the split")
    parser.add_argument("--crf_image", choices=("rgb", "reference"), default="rgb", help="as in eval_cam_with_crf.py")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG", help="where the picture goes")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    from cli.lookup import select_from
    from common.files import atomic_write, check_place, is_file, need_any
    from dataset.mask_png import made_here
    from pipeline.files.cam_file import check_classes
    from pipeline.stages.crf import CrfJob
    from pipeline.stages.evaluate import cam_record, check_one_way
    from report.pictures import contact_sheet, legend_of

    selection = select_from(args, images_needed=True)
    cams = args.cam_out_dir or output_dir(args.dataset, "cams")
    truth, classes = selection.need_masks() if args.gt_root else selection.paths.masks, len(selection.spec.classes)
    with_background = selection.spec.has_background
    job = CrfJob(
        cams, selection.paths.images, None, truth, classes, crf_image=args.crf_image, has_background=with_background
    )
    files = {image_id: cams / f"{image_id}.npz" for image_id in selection.ids}
    need_any(cams, files.values(), "--cam_out_dir", "the output of generate_cams.py")
    ids = [image_id for image_id, path in files.items() if is_file(path)]
    check_one_way(cams, ids)
    check_classes(cams, cam_record(cams, ids), selection.spec)
    check_place(args.out, "--out", "preview.png")
    rows, failures, used = [], [], set[int]()
    for image_id in ids[:: max(1, len(ids) // args.count)][: args.count]:
        try:
            rows.append(_row(job, image_id, used))
        except UserError as error:
            failures.append((image_id, str(error)))
    if not rows:
        print("nothing could be shown", file=sys.stderr)
        return console.list_failures(failures)
    sheet = contact_sheet(
        [list(row.values()) for row in rows], list(rows[0]), legend_of(selection.spec.label_names, used)
    )
    with atomic_write(args.out) as stream:
        sheet.save(stream, "PNG", pnginfo=made_here())
    print(f"{len(rows)} images in {args.out}")
    return console.list_failures(failures)


def _row(job: "CrfJob", image_id: str, used: set[int]) -> "dict[str, np.ndarray]":
    """The pictures of one image by title; adds the labels they show to `used`. No truth, no column for it."""
    import numpy as np

    from common.images import read_image
    from dataset.voc_layout import find_image
    from pipeline.files.cam_file import load_cams
    from pipeline.stages.crf import refine
    from pipeline.stages.evaluate import read_truth
    from pipeline.steps.masks import confident
    from report.pictures import colour_labels, heat_overlay

    row = {"image": np.asarray(read_image(find_image(job.images, image_id)))}
    labels, probabilities = refine(job, image_id)
    drawn = {"after the CRF": labels, "mask (white: 255)": confident(labels, probabilities, job.confidence)}
    if job.truth:
        truth = read_truth(job.truth, image_id, job.num_labels)
        used |= set(np.unique(truth).tolist())
        row["ground truth"] = colour_labels(truth)
    for title, kind in (("CAM", "highres"), ("refined by affinity", "attn_highres")):
        _keys, maps = load_cams(job.cams / f"{image_id}.npz", kind, job.num_classes)
        row[title] = heat_overlay(row["image"], maps.max(axis=0)) if len(maps) else row["image"]
    for title, part in drawn.items():
        used |= set(np.unique(part).tolist())
        row[title] = colour_labels(part)
    return row


if __name__ == "__main__":
    sys.exit(main())
