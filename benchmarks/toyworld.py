"""The toy world's scores on its unseen test seeds: the README's table, made by the three stages themselves.

python -m benchmarks.toyworld [--json FILE] [--quick] [--seeds 777] [--labels clip]
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import mean
from typing import Any

import eval_cam
import eval_cam_with_crf
import generate_cams
from benchmarks import measure
from cli.options import Parser, add_json
from common.errors import EXIT_OK, UserError
from common.files import write_text
from toyworld.layout import write_dataset
from toyworld.spec import TEST_COUNT, TEST_SEEDS

TITLES = {
    "cam": "CAM",
    "attn": "refined",
    "cam_crf": "CRF on the CAM",
    "attn_crf": "CRF on the refined",
    "coverage": "coverage",
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser("Scores of the toy world's CLIP on scenes of other seeds than it was trained on, in mIoU.")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(TEST_SEEDS), help="one set of scenes each")
    parser.add_argument("--model", help="weight file; not given: the committed one")
    parser.add_argument("--labels", choices=("given", "clip"), default="given", help="true labels, or TagCLIP's")
    parser.add_argument("--quick", action="store_true", help="ten scenes a seed, to try it out")
    add_json(parser)
    return parser.parse_args(argv)


def _run(args: argparse.Namespace) -> int:
    count = 10 if args.quick else TEST_COUNT
    options = ["--labels", args.labels] if args.labels == "clip" else []
    options += ["--model", args.model] if args.model else []
    scores = {seed: score_seed(seed, count, cams_by(options)) for seed in args.seeds}
    rows: list[dict[str, Any]] = [{"seed": seed, **row} for seed, row in scores.items()]
    means = {key: mean(row[key] for row in rows) for key in TITLES}
    spreads = {key: max(row[key] for row in rows) - min(row[key] for row in rows) for key in TITLES}
    rows += [{"seed": "mean", **means}, {"seed": "spread", **spreads}]
    columns = {"seed": ("seed", "{}"), **{key: (title, "{:.1%}") for key, title in TITLES.items()}}
    print(measure.table(rows, columns))
    if args.json:
        write_text(args.json, json.dumps({str(seed): row for seed, row in scores.items()}, indent=2) + "\n")
    return EXIT_OK


MakeCams = Callable[[Path, Path], None]  # from the folder of a data set to a folder of CAM files


def cams_by(options: list[str]) -> MakeCams:
    """The CAM stage with these options."""
    return lambda data, cams: run_stage(
        generate_cams.main, ["--img_root", str(data), "--cam_out_dir", str(cams), *options]
    )


def score_seed(seed: int, count: int, make_cams: MakeCams) -> dict[str, float]:
    """mIoU of the stages on `count` scenes of a seed, and the share of pixels that the 0.95 rule keeps."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_dataset(root / "data", seed, count)
        data = ["--img_root", str(root / "data"), "--cam_out_dir", str(root / "cams")]
        make_cams(root / "data", root / "cams")
        masks = ["--pseudo_mask_save_path", str(root / "masks")]
        written = ["--img_root", str(root / "data"), "--cam_out_dir", str(root / "masks"), "--cam_type", "png"]
        runs = {
            "cam": (eval_cam.main, [*data, "--cam_type", "highres"]),
            "attn": (eval_cam.main, data),
            "cam_crf": (eval_cam_with_crf.main, [*data, "--cam_type", "highres", "--eval_only"]),
            "attn_crf": (eval_cam_with_crf.main, [*data, *masks]),
            "masks": (eval_cam.main, written),
        }
        results = {}
        for name, (stage, options) in runs.items():
            run_stage(stage, [*options, "--json", str(root / f"{name}.json")])
            results[name] = json.loads((root / f"{name}.json").read_text(encoding="utf-8"))
    scores = {name: results[name]["miou"] for name in ("cam", "attn", "cam_crf", "attn_crf")}
    return {**scores, "coverage": results["masks"]["coverage"], "precision": results["masks"]["precision"]}


def run_stage(stage: Callable[[list[str] | None], int], options: list[str]) -> None:
    """Run a stage without its table; raises UserError when it does not end well."""
    with redirect_stdout(StringIO()):
        code = stage(options)
    if code != EXIT_OK:
        raise UserError(f"{stage.__module__} {' '.join(options)}: ended with exit code {code}")


main = measure.command(parse, _run)

if __name__ == "__main__":
    sys.exit(main())
