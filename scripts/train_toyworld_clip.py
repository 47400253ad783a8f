"""Train the toy world's CLIP. `python -m scripts.train_toyworld_clip` makes the committed toyworld/clip.pt."""

import argparse
import time
from pathlib import Path

from cli.console import run
from cli.options import Parser
from common.errors import EXIT_OK, UserError
from common.package import PACKAGE
from toyworld.spec import WEIGHTS

OUT = Path("clip.pt") if PACKAGE else WEIGHTS  # an installed package stays as it is


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 for what cannot be done as asked."""
    parser = Parser(
        "Train the toy world's CLIP from scratch. Repeat the command to go on after an interruption.",
    )
    parser.add_argument("--out", type=Path, default=OUT, help="weight file to write")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the order of images")
    parser.add_argument("--steps", type=int, help="number of steps, to try things out; not given: the full recipe")
    parser.add_argument("--threads", type=int, default=2, help="threads, and processes that draw")
    parser.add_argument(
        "--log_dir", type=Path, default=Path("runs/toyworld_clip"), help="folder of checkpoints, log and TensorBoard"
    )
    args = parser.parse_args(argv)
    return run(lambda: train_and_save(args))


def train_and_save(args: argparse.Namespace) -> int:
    """Check what was asked for, train, write the weights."""
    if args.threads < 1 or (args.steps is not None and args.steps < 1):
        raise UserError("--threads and --steps: expected at least 1")
    if not args.out.parent.is_dir():
        raise UserError(f"--out {args.out}: no such folder {args.out.parent}; make it first")
    import torch

    from toyworld.training.data import PHASES, scaled
    from toyworld.training.export import openai_state_dict, write_weights
    from toyworld.training.model import Architecture
    from toyworld.training.train import train

    torch.set_num_threads(args.threads)
    phases, began = scaled(PHASES, args.steps), time.monotonic()
    trained = train(Architecture(), phases, args.seed, args.threads, args.log_dir)
    write_weights(args.out, openai_state_dict(*trained))
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB after {(time.monotonic() - began) / 60:.1f} minutes")
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
