"""Compare the product with the files that a reference implementation made.

python -m benchmarks.parity FOLDER --photos VOC_FOLDER [--clip FILE]

Prints a row a part: how many values were compared, the largest difference (or the share of values that differ), what is
allowed. Exit code 1 when a row is out, or when the folder holds a file that no part compares.
"""

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import measure
from benchmarks.parity.parts import Parts, Place, Row
from cli import console
from cli.options import Parser
from common.errors import EXIT_OK, UserError

FORMS = {  # name: what only such a folder holds
    "golden": "cams",
    "zsseg": "regions",
    "segclip": "segclip.pt",
    "dense": "sclip",
}
DIFFERENT = 1
COLUMNS: measure.Columns = {
    "part": ("part", "{}"),
    "compared": ("values", "{}"),
    "distance": ("largest difference", "{:.2g}"),
    "allowed": ("allowed", "{:.2g}"),
    "verdict": ("verdict", "{}"),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser("Compare the product, part by part, with files that a reference implementation made.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="golden files; their form is recognised")
    parser.add_argument(
        "--photos", type=Path, required=True, metavar="DIR", help="the VOC2012 folder with their photos"
    )
    parser.add_argument(
        "--clip",
        type=Path,
        metavar="FILE",
        help="the CLIP they were made with; not given: clip.pt in the folder, or in `golden` beside it",
    )
    return parser.parse_args(argv)


def form_of(folder: Path) -> str:
    """Raises UserError for a folder of no known form."""
    for form, sign in FORMS.items():
        if (folder / sign).exists():
            return form
    signs = ", ".join(f"{sign} ({form})" for form, sign in FORMS.items())
    raise UserError(f"{folder}: expected a folder of golden files, which holds one of {signs}")


def parts_of(form: str) -> Parts:
    """Each form is a module of its own, so that a check of one needs no library of another."""
    return importlib.import_module(f"benchmarks.parity.{form}").PARTS


def clip_of(folder: Path, given: Path | None) -> Path:
    for path in (
        (given,)
        if given
        else (
            folder / "clip.pt",
            folder / "segclip.pt",
            *(above / "golden/clip.pt" for above in folder.resolve().parents[:2]),
        )
    ):
        if path.is_file():
            return path
    raise UserError(f"{given or folder / 'clip.pt'}: no such file; name the CLIP weights with --clip FILE")


def rows_of(place: Place, parts: Parts) -> Iterator[Row]:
    """The rows of every part that the folder holds, then one for the files that no part compares."""
    names = {str(path.relative_to(place.folder)): path for path in sorted(place.folder.rglob("*")) if path.is_file()}
    left = {
        name for name, path in names.items() if path.name not in ("README.md", "split.txt", "clip.pt", "segclip.pt")
    }
    for part in parts.values():
        held = {name for name in left if any(Path(name).match(pattern) for pattern in part.files)}
        if held:
            yield from part.rows(place)
            left -= held
    if left:
        yield Row(f"not compared: {len(left)} files, first {min(left)}", 0, float("inf"), 0.0)


def shown(row: Row) -> dict[str, object]:
    values = {"part": row.part, "compared": row.compared, "distance": row.distance, "allowed": row.allowed}
    return {**values, "verdict": "agrees" if row.agrees else "OUT" if row.compared else "MISSING"}


def _run(args: argparse.Namespace) -> int:
    if not (args.photos / "JPEGImages").is_dir():
        raise UserError(f"--photos {args.photos}: expected a folder with JPEGImages in it")
    form = form_of(args.folder)
    place = Place(args.folder, args.photos, clip_of(args.folder, args.clip))
    with measure.cores(1):  # what the golden files were made with
        rows = list(rows_of(place, parts_of(form)))
    print(f"{args.folder}: golden files of the form {form}\n")
    print(measure.table([shown(row) for row in rows], COLUMNS))
    return EXIT_OK if rows and all(row.agrees for row in rows) else DIFFERENT


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


if __name__ == "__main__":
    sys.exit(main())
