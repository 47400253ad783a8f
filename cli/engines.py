"""The options of `--engine ray`, and addresses in place of paths.

Kept free of Ray so that `--help` is quick.
"""

import argparse
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from cli import console, run_log
from cli.datasets import FOLDER, spec_of
from common.arguments import positive
from common.errors import StopRun, UserError
from common.package import how_to_install
from dataset.spec import BY_CLIP, VOC
from engine.ray_cluster import ClusterOptions
from engine.remote import Address, path_or_address

TEXTS = ("labels", "model", "pretrained")  # options that may be a path or something else
RAY_OPTIONS = ("address", "ray_workers", "worker_cpus", "shared_code")


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """--engine, --address, --ray_workers, --worker_cpus, --shared_code; paths of this parser may be addresses."""
    parser.register("type", Path, path_or_address)
    group = parser.add_argument_group("many machines (docs/scale.md)")
    group.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help=f"ray: the workers of a Ray cluster ({how_to_install('ray')}); paths may then be addresses "
        "such as s3://bucket/photos",
    )
    group.add_argument("--address", help="of a running Ray cluster, host:6379 or auto; not given: this machine's cores")
    group.add_argument(
        "--ray_workers", type=positive, metavar="N", help="workers at most; not given: one a GPU, or as many as fit"
    )
    group.add_argument(
        "--worker_cpus",
        type=positive,
        metavar="N",
        help="cores and threads of a Ray worker; not given: 1, 4 with a GPU",
    )
    group.add_argument(
        "--shared_code",
        action="store_true",
        help="every node sees this code under the same path, so it is not sent to them",
    )


def addresses(args: argparse.Namespace) -> Mapping[str, Address]:
    """The addresses among the options, by option."""
    result: dict[str, Address] = {}
    for name, value in vars(args).items():
        if isinstance(value, Address):
            result[name] = value
        elif name in TEXTS and isinstance(value, str) and "://" in value:
            result[name] = Address(value.rstrip("/"))
    return result


def run(name: str, stage: str, argv: Sequence[str] | None, args: argparse.Namespace, body: run_log.Body) -> int:
    """`run_log.run` for a command with these options.

    On Ray the body's options hold `cluster`, the ClusterOptions, and paths of this machine in place of addresses. An
    address without `--engine ray` is a user's mistake, and so are options of Ray without it.
    """
    if args.engine == "ray":
        return console.run(lambda: _run_on_ray(name, stage, argv, args, body), quiet=args.quiet)

    def run_here(args: argparse.Namespace, log: run_log.RunLog) -> int:
        for option, address in addresses(args).items():
            raise UserError(
                f"--{option} {address}: an address; only --engine ray reads and writes those, or give a path"
            )
        for option in RAY_OPTIONS:
            if getattr(args, option):
                raise UserError(f"--{option} goes with --engine ray")
        return body(args, log)

    return run_log.run(name, stage, argv, args, run_here)


def _run_on_ray(name: str, stage: str, argv: Sequence[str] | None, args: argparse.Namespace, body: run_log.Body) -> int:
    if args.labels == BY_CLIP:
        raise UserError("--labels clip with --engine ray: first `python -m scripts.tag_images`, then --labels tags.txt")
    if args.shard is not None:
        raise UserError(f"--shard {args.shard} with --engine ray: Ray divides the list itself")
    if find_spec("ray") is None or find_spec("fsspec") is None:
        raise UserError(f"--engine ray needs Ray: {how_to_install('ray')}, on every machine")
    from engine.mirror import mirrored

    output = "pseudo_mask_save_path" if hasattr(args, "pseudo_mask_save_path") else "cam_out_dir"
    remote = addresses(args)
    with mirrored(remote, output, _folders_beside_images(args)) as (mirror, paths):

        def body_with_addresses(args: argparse.Namespace, log: run_log.RunLog) -> int:
            log.spell = mirror.with_addresses
            try:
                return body(args, log)
            except (UserError, StopRun) as error:
                raise type(error)(log.spell(error)) from error

        local = {option: str(path) if option in TEXTS else path for option, path in paths.items()}
        cluster = ClusterOptions(
            args.address,
            args.ray_workers,
            args.worker_cpus,
            args.shared_code,
            args.device != "cpu",
            mirror if remote else None,
        )
        # This process computes on the CPU. It has the whole list, whatever SLURM's variables say.
        args = argparse.Namespace(**{**vars(args), **local, "device": "cpu", "shard": "0/1", "cluster": cluster})
        return run_log.run(name, stage, argv, args, body_with_addresses)


def _folders_beside_images(args: argparse.Namespace) -> list[str]:
    """The folders that the command reads beside the images of a data set in VOC's layout."""
    if args.dataset == FOLDER or spec_of(args.dataset).layout != VOC:
        return []
    masks = ["SegmentationClass"] if getattr(args, "gt_root", "no option") is None else []
    labels = ["Annotations"] if not hasattr(args, "gt_root") and args.labels is None else []
    return ["ImageSets", *masks, *labels]
