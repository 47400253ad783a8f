"""The scores of the three stages in one file and one small table.

python -m scripts.collect_scores output/toyworld/scores --out output/toyworld/scores.json
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from cli import console
from cli.options import Parser
from common.errors import EXIT_OK, UserError
from common.files import write_text

STAGES = ("cam", "attn", "crf")
TITLES = {"cam": "CAM", "attn": "refined by the affinity", "crf": "after the CRF"}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser("cam.json, attn.json and crf.json, as the stages write them with --json -> one file, one table.")
    parser.add_argument("folder", type=Path, help="where cam.json, attn.json and crf.json are")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the collected scores go")
    parser.add_argument("--published", choices=("voc12",), help="print the published numbers beside")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    collected = {stage: read_scores(args.folder / f"{stage}.json") for stage in STAGES}
    write_text(args.out, json.dumps(collected, indent=2) + "\n")
    published = importlib.import_module(f"{args.published}.spec").PUBLISHED if args.published else {}
    _print(collected, published)
    print(f"all scores in {args.out}")
    return EXIT_OK


def read_scores(path: Path) -> dict[str, Any]:
    """What a stage wrote with --json; raises UserError, naming the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; write it with --json of eval_cam.py or eval_cam_with_crf.py") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON; write it again with --json") from error


def _print(collected: dict[str, dict[str, Any]], published: dict[str, float]) -> None:
    print(f"\n{'stage':<26}{'mIoU':>6}{'accuracy':>10}{'images':>8}{'  published' if published else ''}")
    for stage, scores in collected.items():
        row = f"{TITLES[stage]:<26}{100 * scores['miou']:>6.1f}{100 * scores['pixel_accuracy']:>10.1f}"
        print(f"{row}{scores['images']:>8}{f'{published[stage]:>11.1f}' if published else ''}")
    if published:
        print("published: mIoU on VOC train, 1,464 images, ViT-B/16; compare on the same split only")


if __name__ == "__main__":
    sys.exit(main())
