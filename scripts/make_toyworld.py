"""Write a toy-world data set in the VOC layout. `python -m scripts.make_toyworld --out DIR --seed S --count N`"""

from pathlib import Path

from cli.console import run
from cli.options import Parser
from common.errors import EXIT_OK, UserError
from common.files import need_writable
from toyworld.spec import DEMO_COUNT, DEMO_SEED


def main(argv: list[str] | None = None) -> int:
    parser = Parser("Draw labelled scenes with exact masks.")
    parser.add_argument("--out", type=Path, required=True, help="folder for JPEGImages, Annotations, ...")
    parser.add_argument("--seed", type=int, default=DEMO_SEED, help="the set to draw; not given: the demo")
    parser.add_argument("--count", type=int, default=DEMO_COUNT, help="number of scenes")
    args = parser.parse_args(argv)
    return run(lambda: make(args.out, args.seed, args.count))


def make(out: Path, seed: int, count: int) -> int:
    """Check the options, then draw."""
    if count < 1:
        raise UserError(f"--count {count}: expected at least 1")
    if seed < 0:
        raise UserError(f"--seed {seed}: expected 0 or more")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: a file; expected a folder to write into")
    from toyworld.layout import write_dataset

    need_writable(out, "--out")
    write_dataset(out, seed, count)
    print(f"{count} scenes of seed {seed} written in {out}")
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
