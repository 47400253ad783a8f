"""Scores that lie in several files, as the recipes write them -> one file and one small table.

python -m scripts.collect_scores output/toyworld/scores --out output/toyworld/scores.json
python -m scripts.collect_scores output/compare/scores --methods --out output/compare/scores.json
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cli import console
from cli.options import Parser
from common.errors import EXIT_OK, UserError
from common.files import write_text
from common.package import module

STAGES = {"cam": "CAM", "attn": "refined by the affinity", "crf": "after the CRF"}
METHODS = {  # of scripts/compare_toyworld.sh: title, and what labels of the held-out images it was given
    "maskclip-unlabelled": ("MaskCLIP", "none"),
    "zsseg-single": ("zsseg, felzenszwalb, one sentence", "none"),
    "zsseg-learned": ("zsseg, felzenszwalb, learned prompts", "none"),
    "maskclip-learned": ("MaskCLIP, prompts learned on seen classes", "none"),
    "maskclip": ("MaskCLIP", "given"),
    "maskclip-network": ("network on MaskCLIP's masks", "none"),
    "maskclip-plus": ("MaskCLIP+ (network, online teacher)", "none"),
    "segclip-pretrained": ("SegCLIP pretrained on the toy world", "none"),
    "zsseg-regions": ("zsseg, felzenszwalb's regions", "none"),
    "zsseg-network": ("zsseg, network on seen masks", "none"),
    "zsseg-self-trained": ("zsseg, network on seen masks and MaskCLIP+'s elsewhere", "none"),
    "clip-es-unlabelled": ("CLIP-ES", "by CLIP"),
    "clip-es": ("CLIP-ES", "given"),
    "clip-es-network": ("network on CLIP-ES' masks", "none"),
    "truth-network": ("network on the true masks", "none"),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser("Scores that the stages write with --json -> one file, one table.")
    parser.add_argument("folder", type=Path, help="where cam.json, attn.json and crf.json are")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the collected scores go")
    parser.add_argument("--published", choices=("voc12",), help="print the published numbers beside")
    parser.add_argument(
        "--methods",
        action="store_true",
        help="the folder is of scripts/compare_toyworld.sh: NAME.json and NAME-maps.json of every method",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    collected = _methods(args.folder) if args.methods else {stage: _read(args.folder, stage) for stage in STAGES}
    write_text(args.out, json.dumps(collected, indent=2) + "\n")
    if args.methods:
        _print_methods(collected)
    else:
        _print_stages(collected, module(f"{args.published}.spec").PUBLISHED if args.published else {})
    print(f"all scores in {args.out}")
    return EXIT_OK


def _methods(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        name: {"title": title, "labels": labels, "maps": _read(folder, f"{name}-maps"), "crf": _read(folder, name)}
        for name, (title, labels) in METHODS.items()
    }


def _read(folder: Path, name: str) -> dict[str, Any]:
    """What a stage wrote with --json; raises UserError, naming the file."""
    path = folder / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; write it with --json of eval_cam.py or eval_cam_with_crf.py") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON; write it again with --json") from error


def _print_stages(collected: dict[str, dict[str, Any]], published: dict[str, float]) -> None:
    print(f"\n{'stage':<26}{'mIoU':>6}{'accuracy':>10}{'images':>8}{'  published' if published else ''}")
    for stage, scores in collected.items():
        row = f"{STAGES[stage]:<26}{100 * scores['miou']:>6.1f}{100 * scores['pixel_accuracy']:>10.1f}"
        print(f"{row}{scores['images']:>8}{f'{published[stage]:>11.1f}' if published else ''}")
    if published:
        print("published: mIoU on VOC train, 1,464 images, ViT-B/16; compare on the same split only")


def _print_methods(collected: dict[str, dict[str, Any]]) -> None:
    head = f"{'mIoU':>6}{'with the CRF':>14}{'seen':>8}{'unseen':>8}{'hIoU':>6}"
    print(f"\n{'on images never seen':<42}{'their labels':<14}{head}")
    for scores in collected.values():
        before, after = (100 * scores[stage]["miou"] for stage in ("maps", "crf"))
        sets = [scores["crf"].get(name) for name in ("miou_seen", "miou_unseen", "hiou")]
        cells = ["-" if value is None else f"{100 * value:.1f}" for value in sets]
        row = f"{before:>6.1f}{after:>14.1f}{cells[0]:>8}{cells[1]:>8}{cells[2]:>6}"
        print(f"{scores['title']:<42}{scores['labels']:<14}{row}")
    print("seen, the background among them, unseen and hIoU are with the CRF")


if __name__ == "__main__":
    sys.exit(main())
