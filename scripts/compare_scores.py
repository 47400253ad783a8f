"""The scores of scripts/compare_toyworld.sh in one file and one table.

python -m scripts.compare_scores output/compare/scores --out output/compare/scores.json
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli import console
from cli.options import Parser
from common.errors import EXIT_OK
from common.files import write_text
from scripts.collect_scores import read_scores


@dataclass(frozen=True)
class Row:
    """A contestant: how people call it, the file of its scores, and what labels it was given of the held-out images."""

    title: str
    name: str
    labels: str = "none"


ROWS = (
    Row("MaskCLIP", "maskclip-unlabelled"),
    Row("MaskCLIP", "maskclip", "given"),
    Row("network on MaskCLIP's masks", "maskclip-network"),
    Row("MaskCLIP+ (network, online teacher)", "maskclip-plus"),
    Row("CLIP-ES", "clip-es-unlabelled", "by CLIP"),
    Row("CLIP-ES", "clip-es", "given"),
    Row("network on CLIP-ES' masks", "clip-es-network"),
    Row("network on the true masks", "truth-network"),
)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser("NAME.json and NAME-maps.json of every method -> one file, one table.")
    parser.add_argument("folder", type=Path, help="where they are, as scripts/compare_toyworld.sh writes them")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the collected scores go")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    collected: dict[str, dict[str, Any]] = {
        row.name: {
            "title": row.title,
            "labels": row.labels,
            "maps": read_scores(args.folder / f"{row.name}-maps.json"),
            "crf": read_scores(args.folder / f"{row.name}.json"),
        }
        for row in ROWS
    }
    write_text(args.out, json.dumps(collected, indent=2) + "\n")
    print(f"\n{'on images never seen':<38}{'their labels':<14}{'mIoU':>6}{'with the CRF':>14}")
    for scores in collected.values():
        before, after = (100 * scores[stage]["miou"] for stage in ("maps", "crf"))
        print(f"{scores['title']:<38}{scores['labels']:<14}{before:>6.1f}{after:>14.1f}")
    print(f"all scores in {args.out}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
