"""A picture of the stages on a few images: photo, truth, CAM, refined CAM, CRF labels, mask.

python -m scripts.preview --out output/toyworld/preview.png
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli import console
from cli.options import Parser, add_cam_dir, add_data_options, add_own_data_options, output_dir
from common.arguments import positive
from common.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from pipeline.stages.crf import CrfJob


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
    from cli.lookup import select_from
    from common.files import atomic_write, check_place
    from dataset.mask_png import made_here
    from dataset.voc_layout import is_file
    from pipeline.files.cam_file import check_classes
    from pipeline.stages.crf import CrfJob
    from pipeline.stages.evaluate import cam_record
    from report.pictures import contact_sheet, legend_of

    selection = select_from(args, images_needed=True)
    cams = args.cam_out_dir or output_dir(args.dataset, "cams")
    truth, classes = selection.need_masks() if args.gt_root else selection.paths.masks, len(selection.spec.classes)
    job = CrfJob(cams, selection.paths.images, None, truth, classes, crf_image=args.crf_image)
    ids = [image_id for image_id in selection.ids if is_file(cams / f"{image_id}.npz")]
    if not ids:
        raise UserError(f"--cam_out_dir {cams}: no CAM file of the split; run generate_cams.py first")
    check_classes(cams, cam_record(cams, ids), selection.spec)
    check_place(args.out, "--out", "preview.png")
    used: set[int] = set()
    rows, failures = _rows(job, ids[:: max(1, len(ids) // args.count)][: args.count], used)
    if not rows:
        print("nothing could be shown", file=sys.stderr)
        return console.list_failures(failures)
    pictures, legend = [list(row.values()) for row in rows], legend_of(selection.spec.label_names, used)
    with atomic_write(args.out) as stream:
        contact_sheet(pictures, list(rows[0]), legend).save(stream, "PNG", pnginfo=made_here())
    print(f"{len(rows)} images in {args.out}")
    return console.list_failures(failures)


def _rows(
    job: "CrfJob", ids: Sequence[str], used: set[int]
) -> "tuple[list[dict[str, np.ndarray]], list[tuple[str, str]]]":
    """One `_row` an image, and (id, reason) of those that have none."""
    rows, failures = [], []
    for image_id in ids:
        try:
            rows.append(_row(job, image_id, used))
        except UserError as error:
            failures.append((image_id, str(error)))
    return rows, failures


def _row(job: "CrfJob", image_id: str, used: set[int]) -> "dict[str, np.ndarray]":
    """The pictures of one image by title; adds the labels they show to `used`. No truth, no column for it."""
    import numpy as np

    from common.images import read_image
    from dataset.voc_layout import find_image
    from pipeline.files.cam_file import load_cams
    from pipeline.stages.crf import refine
    from pipeline.stages.evaluate import read_truth
    from pipeline.steps import masks
    from report.pictures import heat_overlay

    path = job.cams / f"{image_id}.npz"
    rgb = np.asarray(read_image(find_image(job.images, image_id)))
    labels, probabilities = refine(job, image_id)
    mask = masks.confident(labels, probabilities, job.confidence)
    truth = {"ground truth": read_truth(job.truth, image_id, job.num_labels)} if job.truth else {}
    maps = [load_cams(path, kind, job.num_classes)[1] for kind in ("highres", "attn_highres")]
    heats = [heat_overlay(rgb, part.max(axis=0)) if len(part) else rgb for part in maps]
    drawn = {"after the CRF": labels, "mask (white: 255)": mask}
    used |= {int(value) for part in (*truth.values(), *drawn.values()) for value in np.unique(part)}
    shown = {"image": rgb, **_coloured(truth), "CAM": heats[0], "refined by affinity": heats[1]}
    return shown | _coloured(drawn)


def _coloured(labels: "Mapping[str, np.ndarray]") -> "dict[str, np.ndarray]":
    from report.pictures import colour_labels

    return {title: colour_labels(part) for title, part in labels.items()}


if __name__ == "__main__":
    sys.exit(main())
