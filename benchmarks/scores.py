"""The toy world's scores by the plain transcription and by ours in every precision: they should not differ by 0.1.

python -m benchmarks.scores [--quick] [--json FILE]

The stages after the CAMs are the same for all; scenes are those of the validation seed.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.plain_clip_es import load_plain, plain_maps
from benchmarks.toyworld import cams_by, score_seed
from common.arguments import positive
from common.errors import EXIT_OK
from common.images import read_image
from dataset.split_file import read_split
from dataset.voc_layout import voc_paths, voc_samples
from toyworld.spec import SPEC, VALIDATION_SEED, WEIGHTS

WAYS: dict[str, list[str]] = {
    "float32": [],
    "float32, batches of 8": ["--batch_size", "8"],
    "bfloat16": ["--precision", "bfloat16"],
    "float16": ["--precision", "float16"],
}
STAGES = {"cam": "CAM", "attn": "refined", "cam_crf": "CRF on the CAM", "attn_crf": "CRF on the refined"}
COLUMNS: measure.Columns = {
    "way": ("CAMs by", "{}"),
    **{key: (title, "{:.2f}") for key, title in STAGES.items()},
    "largest": ("largest difference", "{:.2f}"),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = measure.parser_of(
        "mIoU on the toy world: ours in every precision beside a plain transcription.", device=True
    )
    parser.add_argument("--scenes", type=positive, help="not given: 100, with --quick 6")
    return parser.parse_args(argv)


def _run(args: argparse.Namespace) -> int:
    count = args.scenes or (6 if args.quick else 100)
    with measure.cores(args.threads):
        plain = score_seed(VALIDATION_SEED, count, plain_cams)
        rows = [row_of("plain transcription", plain, plain)]
        for name, options in WAYS.items():
            ours = score_seed(VALIDATION_SEED, count, cams_by([*options, "--device", args.device]))
            rows.append(row_of(name, ours, plain))
    print(f"mIoU in percent on {count} scenes of seed {VALIDATION_SEED}\n")
    print(measure.table(rows, COLUMNS))
    measure.write_record(args.json, "scores", measure.machine(args.device), {"scenes": count}, rows)
    return EXIT_OK


def row_of(way: str, scores: dict[str, float], plain: dict[str, float]) -> dict[str, Any]:
    """One line: percent, and the largest difference from the transcription over the stages."""
    largest = max(abs(scores[key] - plain[key]) for key in STAGES)
    return {"way": way, **{key: 100 * scores[key] for key in STAGES}, "largest": 100 * largest}


def plain_cams(data: Path, cams: Path) -> None:
    """CAM files of the full-size form, made by the transcription."""
    paths, model = voc_paths(data), load_plain(WEIGHTS, SPEC)
    samples, _ = voc_samples(paths, SPEC.classes, read_split(paths.split))
    cams.mkdir(parents=True)
    for sample in samples:
        maps = plain_maps(model, read_image(sample.image), sample.labels)
        half = {name: getattr(maps, name).astype(np.float16) for name in ("highres", "attn_highres")}
        np.savez(cams / f"{sample.id}.npz", keys=maps.keys, **half)


main = measure.command(parse, _run)

if __name__ == "__main__":
    sys.exit(main())
