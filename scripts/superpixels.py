"""Images -> their superpixels, once, for scripts/pretrain_segclip.py: 16-bit PNGs, or members of the shards.

python -m scripts.superpixels train2014 --num_workers 8                            # train2014-superpixels/<id>.png
python -m scripts.superpixels 'cc3m/{00000..00331}.tar' --out cc3m-superpixels     # copies of the shards, with the maps
"""

import argparse
import sys
from pathlib import Path

from cli import run_log
from cli.options import Parser, add_log_options, add_shard, shard_from
from common.arguments import positive
from common.errors import UserError


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "Images -> superpixels by Felzenszwalb and Huttenlocher (scale 224, sigma 0.9, at least 224 pixels).",
        "Maps that are there and were made of the same images in the same way are kept. Needs scikit-image.",
    )
    add = parser.add_argument
    add("data", nargs="+", metavar="DATA", help="a folder of images, or tar files as img2dataset writes them")
    add("--out", type=Path, metavar="DIR", help="where they go; not given: DATA-superpixels, for a folder of images")
    add(
        "--side",
        type=positive,
        default=224,
        metavar="N",
        help="shorter side of stored images: that of the CLIP's input",
    )
    add("--num_workers", type=positive, default=2, metavar="N", help="processes")
    add("--overwrite", action="store_true", help="make again what is there")
    add_shard(parser)
    add_log_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_log.run("-m scripts.superpixels", "superpixels", argv, args, _run)


def _run(args: argparse.Namespace, log: run_log.RunLog) -> int:
    from common.files import need_writable
    from common.shard import every_nth
    from dataset.folder import find_images
    from dataset.spec import Sample
    from engine.processes import run_processes
    from pipeline.stages.batches import Batch
    from segclip.training.shards import find_shards, holds_shards
    from segclip.training.superpixel_stage import MapJob, run_batches, worker
    from segclip.training.superpixels import maps_beside

    shards = holds_shards(args.data)
    if shards:
        samples, what = [Sample(path.name, path, ()) for path in find_shards(args.data)], "shards"
        if args.out is None:
            raise UserError("--out is needed with tar files: the folder for their copies, which hold the superpixels")
    else:
        if len(args.data) > 1:
            raise UserError(f"DATA {args.data[1]}: no tar file; expected one folder of images, or tar files")
        try:
            images, what = find_images(Path(args.data[0])), "maps"
        except UserError as error:
            raise UserError(str(error).replace("--img_root", "DATA")) from error
        samples = [Sample(key, path, ()) for key, path in images.paths.items()]
        log.failed(images.problems)
        args.out = args.out or maps_beside(Path(args.data[0]))
    need_writable(args.out, "--out")
    job, shard = MapJob(args.out, args.side, shards, args.overwrite), shard_from(args)
    ids = [sample.id.removesuffix(".tar") for sample in samples]
    suffix = ".tar" if shards else ".png"
    log.write_to(run_log.Output(args.out, suffix, "--out", ids, job.settings(), "cpu", args.overwrite), shard)
    print(f"data    {len(samples)} {'shards' if shards else 'images'} of {' '.join(args.data)}; {what} to {args.out}")
    batches = [Batch([sample]) for sample in every_nth(samples, shard)]
    if args.num_workers > 1 and len(batches) > 1:
        outcomes = run_processes(worker, job, batches, min(args.num_workers, len(batches)))
    else:
        outcomes = run_batches(job, batches)
    log.follow(outcomes, len(batches), what)
    return log.report(what, args.out)


if __name__ == "__main__":
    sys.exit(main())
