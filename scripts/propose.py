"""Images -> regions that may be objects, one file an image.

python -m scripts.propose --proposals selective-search --out output/toyworld/regions            # the toy world
python -m scripts.propose --dataset voc12 --img_root VOC2012 --proposals sam --sam facebook/sam-vit-base --out regions
"""

import argparse
import sys
from pathlib import Path

from cli import options, run_log
from cli.options import Pack
from common.arguments import positive
from common.shard import every_nth
from zsseg.proposals.table import PROPOSERS

MADE = tuple(name for name, proposer in PROPOSERS.items() if proposer.source is None)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = options.Parser(
        "Images -> regions, without classes: label maps as PNG where every pixel has one, else run lengths in npz.",
        "Finished files are kept: an interrupted run is continued by repeating it. `--proposals NAME --help` shows the "
        "options of one way to propose.",
    )
    options.add_data_options(parser, truth=False)
    parser.add_argument("--proposals", choices=MADE, default="felzenszwalb", help="how regions are found")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the files go")
    for name in MADE:
        parser.packs.append(Pack.of("proposals", name, PROPOSERS[name].settings))
    run = parser.add_argument_group("run")
    run.add_argument(
        "--max_side", type=positive, default=1024, help="larger images are shrunk to this; the files have their size"
    )
    run.add_argument("--device", default="auto", help="of a network: auto, cpu, cuda, cuda:1")
    run.add_argument(
        "--num_workers", type=positive, default=1, help="processes that propose; networks need one, on their device"
    )
    run.add_argument("--overwrite", action="store_true", help="make files again that are there already")
    options.add_shard(parser)
    options.add_log_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return run_log.run("-m scripts.propose", "proposals", argv, args, _run)


def _run(args: argparse.Namespace, log: run_log.RunLog) -> int:
    from cli.lookup import select_from
    from cli.proposals import proposal_job, without_labels
    from common.files import need_writable
    from pipeline.stages import proposals as stage

    selection, shard = select_from(args, with_labels=False), options.shard_from(args)
    need_writable(args.out, "--out")
    job = proposal_job(args, args.proposals, selection.spec, args.out, max_side=args.max_side)
    proposer = PROPOSERS[args.proposals]
    log.write_to(
        run_log.Output(args.out, job.ending, "--out", selection.ids, job.made_by(), args.device, args.overwrite), shard
    )
    samples, missing = without_labels(selection.paths.images, selection.ids)
    if shard[0] == 0:
        log.failed([*selection.problems, *missing])
    print(f"data    {args.dataset}: {len(samples)} images in {selection.paths.images}")
    print(f"regions by {args.proposals}{f': {proposer.remark}' if proposer.remark else ''}")
    samples = list(every_nth(samples, shard))
    finished = set() if args.overwrite else stage.finished_ids(job, samples)
    log.follow(stage.run(job, samples, finished), len(samples), "regions")
    return log.report("region files", args.out)


if __name__ == "__main__":
    sys.exit(main())
