"""Bytes an image: our CAM files against the reference's, on the same images.

python -m benchmarks.disk [--quick] [--json FILE]

The reference keeps a pickled dictionary an image, {keys, attn_highres: float16 in full size}; its size is counted here
in memory, no such file is written or read. Ours holds both maps, before and after the affinity, the settings, and
opens without pickle.
"""

import argparse
import io
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.material import cam_job, model_file, need_all, photos
from common.arguments import positive
from common.errors import EXIT_OK
from dataset.spec import Sample
from pipeline.files.cam_file import load_cams
from pipeline.stages import cams as stage_cams

COLUMNS: measure.Columns = {
    "form": ("our form", "{}"),
    "ours_bytes": ("bytes an image", "{:,.0f}"),
    "reference_bytes": ("reference", "{:,.0f}"),
    "reference_over_ours": ("share", "1/{:.0f}"),
    "least": ("worst image", "1/{:.0f}"),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = measure.parser_of("Bytes an image of our CAM files against the reference's.")
    parser.add_argument("--photos", type=positive, help="not given: 40, with --quick 4")
    return parser.parse_args(argv)


def _run(args: argparse.Namespace) -> int:
    rows = []
    with measure.cores(args.threads), TemporaryDirectory() as name:
        folder, machine = Path(name), measure.machine()
        chosen = photos(args.photos or (4 if args.quick else 40), folder)
        print(f"CAM files of {chosen.source}, by the toy world's CLIP\n")
        samples, work = chosen.samples(), stage_cams.set_up(cam_job(model_file("toy", folder), folder))
        for form, full_size in (("patch grid", False), ("--save highres", True)):
            stage = replace(work, job=replace(work.job, out_dir=folder / form, full_size=full_size))
            list(need_all(stage_cams.run(stage, samples, set())))
            rows.append(row(form, {sample: stage.path(sample.id) for sample in samples}))
    print(measure.table(rows, COLUMNS))
    measure.write_record(args.json, "disk", machine, {"photos": chosen.source}, rows)
    return EXIT_OK


def row(form: str, files: dict[Sample, Path]) -> dict[str, Any]:
    ours = [path.stat().st_size for path in files.values()]
    theirs = [reference_bytes(sample, path) for sample, path in files.items()]
    return {
        "form": form,
        "ours_bytes": mean(ours),
        "reference_bytes": mean(theirs),
        "reference_over_ours": sum(theirs) / sum(ours),
        "least": min(their / our for our, their in zip(ours, theirs)),
    }


def reference_bytes(sample: Sample, path: Path) -> int:
    """Size of the file that the reference would have written for the maps of ours; never written, never read."""
    keys, maps = load_cams(path, "attn_highres", max(sample.labels, default=0) + 1)
    stream = io.BytesIO()
    np.save(stream, np.array({"keys": keys, "attn_highres": maps.astype(np.float16)}))
    return len(stream.getbuffer())


main = measure.command(parse, _run)

if __name__ == "__main__":
    sys.exit(main())
