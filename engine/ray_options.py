"""The options of `--engine ray`, and addresses in place of paths.

Kept free of Ray so that `--help` is quick.
"""

import argparse
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from cli import console, run_log
from common.arguments import positive
from common.errors import UserError

TEXTS = ("labels", "model", "pretrained")  # options that may be a path or something else
BY_CLIP = "clip"
PLACES = ("img_root", "split_file", "gt_root", "classes", "cam_out_dir", "pseudo_mask_save_path", *TEXTS)
OF_RAY = ("address", "ray_workers", "worker_cpus", "shared_code")


class Address(str):
    """The address of a file or folder that is not on this machine, such as `s3://bucket/photos`; no slash at its end.

    Not a path: pathlib would make `s3:/bucket` of it.
    """


def place(text: str) -> Path | Address:
    """argparse type: a path, or an address as it was typed."""
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    return Address(text.rstrip("/")) if "://" in text else Path(text)


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """--engine, --address, --ray_workers, --worker_cpus, --shared_code; paths of this parser may be addresses."""
    parser.register("type", Path, place)
    group = parser.add_argument_group("many machines (docs/scale.md)")
    group.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: the workers of a Ray cluster (pip install -r requirements-ray.txt); paths may then be addresses "
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
    """The options that were given addresses."""
    given: dict[str, Address] = {}
    for name, value in vars(args).items():
        if isinstance(value, Address):
            given[name] = value
        elif name in TEXTS and isinstance(value, str) and "://" in value:
            given[name] = Address(value.rstrip("/"))
    return given


def run(name: str, stage: str, argv: Sequence[str] | None, args: argparse.Namespace, body: run_log.Body) -> int:
    """`run_log.run` for a command with these options; on Ray, paths of this machine stand in for addresses.

    An address without `--engine ray` is a user's mistake, and so are options of Ray without it.
    """
    if args.engine == "local":
        return run_log.run(name, stage, argv, args, lambda args, log: body(_local(args), log))
    return console.run(lambda: _on_ray(name, stage, argv, args, body), quiet=args.quiet)


def _local(args: argparse.Namespace) -> argparse.Namespace:
    for name, address in addresses(args).items():
        raise UserError(f"--{name} {address}: an address; only --engine ray reads and writes those, or give a path")
    for name in OF_RAY:
        if getattr(args, name):
            raise UserError(f"--{name} goes with --engine ray")
    return args


def _on_ray(name: str, stage: str, argv: Sequence[str] | None, args: argparse.Namespace, body: run_log.Body) -> int:
    if args.labels == BY_CLIP:
        raise UserError("--labels clip with --engine ray: first `python -m scripts.tag_images`, then --labels tags.txt")
    if find_spec("ray") is None or find_spec("fsspec") is None:
        raise UserError("--engine ray needs Ray: pip install -r requirements-ray.txt, on every machine")
    from engine.stand_in import standing_in, told

    with standing_in(args, addresses(args)) as view:
        return run_log.run(name, stage, argv, view, told(body))
