"""Images -> mask PNGs by a trained network, in the form in which eval_cam_with_crf.py writes them.

python -m scripts.predict_segmentor --weights output/toyworld/segmentor/weights.safetensors \
    --img_root photos --out output/photos/masks
python eval_cam.py --cam_type png --cam_out_dir MASKS ...    # scores them
"""

import argparse
import sys
from pathlib import Path

from cli import run_log
from cli.options import DATASETS, Parser, add_log_options, add_settings, settings_from
from common.arguments import positive, share
from common.errors import UserError
from common.limits import MAX_PIXELS
from segmentor.settings import InferenceSettings

FOLDER, OWN = "folder", "own"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "Images -> PNG masks by a network of scripts.train_segmentor; labels are not needed, but can be used.",
        "The masks have the form of eval_cam_with_crf.py's: score them with eval_cam.py --cam_type png, or train on "
        "them again. Finished masks are kept: an interrupted run is continued by repeating it.",
    )
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE", help="weights.safetensors of a training")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the masks go")
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", choices=DATASETS, default=FOLDER, help="whose layout and usual split")
    data.add_argument("--img_root", "--image_root", type=Path, metavar="DIR", help="folder of images, at any depth")
    data.add_argument("--split_file", type=Path, metavar="FILE", help="images to take, one id a line; not given: all")
    data.add_argument("--classes", type=Path, metavar="FILE", help="classes file to compare with those of the weights")
    data.add_argument(
        "--labels",
        metavar="LABELS",
        help="the classes that each image shows, which are then the only ones in its mask, beside the background: "
        "`own` (the data set's), or as generate_cams.py takes them; not given: any class",
    )
    add_settings(parser, "how it looks", InferenceSettings)
    masks = parser.add_argument_group("masks")
    masks.add_argument(
        "--confidence", type=share, default=0.0, help="below this probability a pixel becomes 255; 0: none"
    )
    masks.add_argument(
        "--crf", nargs="?", const="numba", choices=("numba", "torch", "pydensecrf"), help="sharpen by DenseCRF; numba"
    )
    masks.add_argument("--palette", action="store_true", help="write coloured masks of mode P, for people")
    masks.add_argument(
        "--max_pixels", type=positive, default=MAX_PIXELS, help="larger images are worked on smaller; masks are not"
    )
    run = parser.add_argument_group("run")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    run.add_argument("--num_workers", type=positive, default=2, help="images that are read and written side by side")
    run.add_argument("--overwrite", action="store_true", help="make masks again that are there already")
    add_log_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_log.run("-m scripts.predict_segmentor", "segmentor", argv, args, _run)


def _run(args: argparse.Namespace, log: run_log.RunLog) -> int:
    from cli.lookup import dataset_spec
    from clip.device import pick_device
    from common.files import need_writable
    from common.provenance import source_of
    from pipeline.stages.crf import CrfJob
    from segmentor import stage_predict
    from segmentor.weights import read_weights

    images, ids, problems, present = _images(args)
    network, description = read_weights(args.weights)
    named = args.dataset != FOLDER or args.classes is not None
    if named and dataset_spec(args.dataset, args.classes).label_names != description.labels:
        known = ", ".join(description.labels[:6])
        raise UserError(f"--weights {args.weights}: knows {len(description.labels)} other labels ({known}, ...)")
    need_writable(args.out, "--out")
    device = pick_device(args.device)
    inference = settings_from(args, InferenceSettings, normalisation=description.normalisation)
    masks = CrfJob(
        Path(),
        images,
        args.out,
        None,
        len(description.labels),
        backend=args.crf or "numba",
        device=args.device,
        confidence=args.confidence,
        palette=args.palette,
        overwrite=args.overwrite,
        max_pixels=args.max_pixels,
        has_background=False,
    )
    job = stage_predict.PredictJob(
        network.to(device), source_of(args.weights), inference, masks, args.crf is not None, present
    )
    log.write_to(run_log.Output(args.out, ".png", "--out", ids, job.settings(), str(device), args.overwrite))
    head = " with a text head" if description.head == "text" else ""
    print(f"data    {len(ids)} images in {images}")
    where = f"on {device}, {inference.precision}"
    print(f"network {description.arch}{head} after {description.iterations} iterations, {where}")
    print(f"labels  {', '.join(description.labels)}")
    box = f", fitted into {inference.resize[0]} x {inference.resize[1]}" if inference.resize else ""
    scales = " ".join(f"{scale:g}" for scale in inference.scales)
    if present is not None:
        print("        in each mask only those that --labels says the image shows")
    print(f"looks   scales {scales}{' and mirrored' if inference.flip else ''}{box}")
    unsure = f"255 below a probability of {args.confidence:g}" if args.confidence else "no 255s"
    print(f"masks   to {args.out}, {unsure}, {f'CRF by {args.crf}' if args.crf else 'no CRF'}")
    log.failed(problems)
    log.follow(stage_predict.run(job, ids, args.num_workers), len(ids), "masks")
    return log.report("masks", args.out)


Present = dict[str, tuple[int, ...]] | None  # mask values by image


def _images(args: argparse.Namespace) -> tuple[Path, list[str], list[tuple[str, str]], Present]:
    """The folder of images, the ids to predict, (id, reason) of what cannot be used, and what each image may show."""
    from cli.lookup import select
    from dataset.folder import find_images, restricted
    from dataset.references import split_ids

    if args.labels is not None:
        labels = None if args.labels == OWN else args.labels
        selection = select(args.dataset, args.img_root, args.split_file, None, args.classes, labels, images_needed=True)
        samples, problems = selection.samples()
        background = (0,) if selection.spec.has_background else ()
        present = {
            sample.id: (*background, *(label + len(background) for label in sample.labels))
            for sample in samples
            if background or sample.labels
        }
        unlabelled = [(sample.id, f"{sample.image}: no labels") for sample in samples if sample.id not in present]
        return selection.paths.images, list(present), [*problems, *unlabelled], present
    if args.dataset != FOLDER:
        selection = select(args.dataset, args.img_root, args.split_file, None, images_needed=True)
        return selection.paths.images, selection.ids, selection.problems, None
    if args.img_root is None:
        raise UserError("--img_root is needed: the folder of your images")
    images = find_images(args.img_root)
    if args.split_file is None:
        return args.img_root, list(images.paths), images.problems, None
    ids = split_ids(images, args.split_file)
    return args.img_root, ids, restricted(images, ids).problems, None


if __name__ == "__main__":
    sys.exit(main())
