"""A picture of the stages on a few images: photo, truth, CAM, refined CAM, CRF labels, mask.

python -m scripts.preview --out output/toyworld/preview.png
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from common import console
from common.errors import UserError
from common.options import Parser, add_cam_dir, add_data_options, add_own_data_options, output_dir, positive

if TYPE_CHECKING:
    import numpy as np

    from pipeline.stage_crf import CrfJob

TITLES = ("image", "ground truth", "CAM", "refined by affinity", "after the CRF", "mask (white: 255)")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser("Images + CAM files -> one picture that shows the stages side by side.")
    add_data_options(parser, truth=True)
    add_own_data_options(parser)
    add_cam_dir(parser, "where the CAM files are")
    parser.add_argument("--count", type=positive, default=8, help="images to show, spread over the split")
    parser.add_argument("--crf_image", choices=("rgb", "reference"), default="rgb", help="as in eval_cam_with_crf.py")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG", help="where the picture goes")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    from common.files import atomic_write
    from dataset.lookup import select
    from pipeline.masks import made_here
    from pipeline.pictures import contact_sheet, legend_of
    from pipeline.stage_crf import CrfJob

    selection = select(
        args.dataset, args.img_root, args.split_file, args.gt_root, args.classes, args.labels, images_needed=True
    )
    cams = args.cam_out_dir or output_dir(args.dataset, "cams")
    classes = len(selection.spec.classes)
    job = CrfJob(cams, selection.paths.images, None, selection.paths.masks, classes, crf_image=args.crf_image)
    ids = [image_id for image_id in selection.ids if (cams / f"{image_id}.npz").is_file()]
    if not ids:
        raise UserError(f"--cam_out_dir {cams}: no CAM file of the split; run generate_cams.py first")
    used: set[int] = set()
    rows, failures = [], []
    for image_id in ids[:: max(1, len(ids) // args.count)][: args.count]:
        try:
            rows.append(_row(job, image_id, used))
        except UserError as error:
            failures.append((image_id, str(error)))
    sheet = contact_sheet(rows, TITLES, legend_of(selection.spec.label_names, used))
    with atomic_write(args.out) as stream:
        sheet.save(stream, "PNG", pnginfo=made_here())
    print(f"{len(rows)} images in {args.out}")
    return console.list_failures(failures)


def _row(job: "CrfJob", image_id: str, used: set[int]) -> "list[np.ndarray]":
    """The pictures of one image; adds the labels they show to `used`."""
    import numpy as np

    from common.images import read_image
    from dataset.voc_layout import find_image
    from pipeline import masks
    from pipeline.pictures import colour_labels, heat_overlay
    from pipeline.stage_crf import refine
    from pipeline.stage_eval import read_truth
    from pipeline.storage import load_cams

    path = job.cams / f"{image_id}.npz"
    rgb = np.asarray(read_image(find_image(job.images, image_id)))
    labels, probabilities = refine(job, image_id, path)
    mask = masks.confident(labels, probabilities, job.confidence)
    truth = read_truth(job.truth, image_id, job.num_classes + 1) if job.truth else np.zeros_like(labels)
    maps = [load_cams(path, kind, job.num_classes)[1] for kind in ("highres", "attn_highres")]
    used |= {int(value) for part in (labels, mask, truth) for value in np.unique(part)}
    heats = [heat_overlay(rgb, part.max(axis=0)) if len(part) else rgb for part in maps]
    return [rgb, colour_labels(truth), *heats, colour_labels(labels), colour_labels(mask)]


if __name__ == "__main__":
    sys.exit(main())
