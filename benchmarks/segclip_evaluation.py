"""SegCLIP's evaluation against a plain transcription that looks at one window after the other; and its memory.

python -m benchmarks.segclip_evaluation [--quick] [--json FILE] [--threads 2] [--device auto] [--model ViT-B/16]

Both go from photos to a confusion matrix on VOC's 21 labels, at the published setting, with the same random weights.
Ours writes and reads its CAM files on the way, as generate_cams.py and eval_cam.py do. Loading the model, the text
embeddings and the first pass, from which the labels are compared, are not counted.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks import measure, plain_segclip
from benchmarks.material import MODELS, copies, need_all, photos, segclip_file
from clip.device import pick_device
from common.arguments import positive
from common.errors import EXIT_INCOMPLETE, EXIT_OK
from dataset.mask_png import read_mask
from dataset.spec import Sample
from pipeline.files.cam_file import read_maps
from pipeline.methods.method import CamSettings
from pipeline.stages import cams as stage_cams
from pipeline.stages import evaluate
from pipeline.stages.cams import CamJob, CamWork, ModelSource
from pipeline.steps.masks import contest, labels_of
from pipeline.steps.scores import confusion_matrix
from voc12.spec import SPEC

WAYS: dict[str, tuple[int, dict[str, Any]]] = {  # images a batch, and what is changed in CamSettings
    "float32": (1, {}),
    "float32-b4": (4, {}),
    "bfloat16-b4": (4, {"precision": "bfloat16"}),
    "float32-b16": (16, {}),
    "bfloat16-b16": (16, {"precision": "bfloat16"}),
    "float16-b16": (16, {"precision": "float16"}),
}
ON_CPU, ON_GPU = ("float32", "float32-b4", "bfloat16-b4"), ("float32-b16", "bfloat16-b16", "float16-b16")
LEAST_EQUAL = 0.999  # share of labels, in float32
LENGTHS, SHORT_LENGTHS = (50, 500), (5, 20)
SPEED: measure.Columns = {
    "way": ("ours", "{}"),
    "images_per_s": ("images/s", "{:.3g}"),
    "plain_images_per_s": ("plain, images/s", "{:.3g}"),
    "ratio": ("ratio", "{:.2f}"),
    "equal": ("equal labels", "{:.3%}"),
}
MEMORY: measure.Columns = {
    "images": ("images", "{:,}"),
    "generate_mb": ("peak MB after generate_cams.py", "{:.0f}"),
    "eval_mb": ("after eval_cam.py", "{:.0f}"),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = measure.parser_of("SegCLIP's evaluation against a plain transcription.", True)
    parser.add_argument("--model", choices=MODELS, default="ViT-B/16", help="what the random SegCLIP begins from")
    parser.add_argument("--photos", type=positive, help="how many; not given: 6, with --quick 2")
    parser.add_argument("--turns", type=positive, help="not given: 3, with --quick 1")
    return parser.parse_args(argv)


def _run(args: argparse.Namespace) -> int:
    device = pick_device(args.device)
    names = ON_CPU if device.type == "cpu" else ON_GPU
    turns = args.turns or (1 if args.quick else 3)
    with measure.cores(args.threads), TemporaryDirectory() as name:
        folder, machine = Path(name), measure.machine(device)
        chosen = photos(args.photos or (2 if args.quick else 6), folder)
        print(measure.headline(f"SegCLIP: {chosen.source}, medians of {turns} turns", args.threads, machine))
        weights = segclip_file(args.model, folder)
        source = ModelSource(str(weights), device=str(device))
        work = stage_cams.set_up(CamJob(SPEC, source, CamSettings(method="segclip"), folder / "ours"))
        samples = [replace(sample, labels=tuple(range(len(SPEC.classes)))) for sample in chosen.samples()]
        plain = partial(plain_labels, work, samples, chosen.masks)
        rows = race(work, samples, chosen.masks, names, turns, plain)
        grown = memory(chosen, folder, SHORT_LENGTHS if args.quick else LENGTHS)
    print(measure.table(rows, SPEED))
    print(f"\nmemory of the commands, with the toy world's CLIP as a SegCLIP\n\n{measure.table(grown, MEMORY)}")
    settings = {"photos": chosen.source, "turns": turns, "threads": args.threads, "model": args.model}
    measure.write_record(args.json, "segclip_evaluation", machine, settings, [*rows, *grown])
    return verdict(rows)


def verdict(rows: Sequence[measure.Row]) -> int:
    wrong = [row for row in rows if row["precision"] == "float32" and row["equal"] < LEAST_EQUAL]
    for row in wrong:
        print(f"error: {row['way']}: the labels are not those of the transcription", file=sys.stderr)
    return EXIT_INCOMPLETE if wrong else EXIT_OK


def race(
    work: CamWork,
    samples: list[Sample],
    truth: Path,
    names: Sequence[str],
    turns: int,
    plain: Callable[[], list[np.ndarray]],
) -> list[dict[str, Any]]:
    """A row for each way of ours.

    plain  makes the transcription's label maps
    """
    labels = plain()
    ways = {
        name: replace(work, batch_size=WAYS[name][0], settings=replace(work.settings, **WAYS[name][1]))
        for name in names
    }
    equal = {}
    for name, way in ways.items():
        evaluation(way, samples, truth)  # warms up
        equal[name] = share_of_equal(way, samples, labels)
    contestants: dict[str, Callable[[], float]] = {"plain": measure.timed(plain)}
    contestants |= {name: partial(evaluation, way, samples, truth) for name, way in ways.items()}
    seconds = measure.take_turns(contestants, turns)
    return [
        {
            "way": name,
            "precision": way.settings.precision,
            "images_per_s": len(samples) / seconds[name],
            "plain_images_per_s": len(samples) / seconds["plain"],
            "ratio": seconds["plain"] / seconds[name],
            "equal": equal[name],
        }
        for name, way in ways.items()
    ]


def plain_labels(work: CamWork, samples: Sequence[Sample], truth: Path) -> list[np.ndarray]:
    """The transcription's label maps, whose confusion matrices are made too."""
    device = work.clip.device
    state = {f"clip.{name}": value for name, value in work.clip.model.state_dict().items()}
    results = []
    with torch.device(device):
        for sample in samples:
            photo = plain_segclip.read_photo(sample.image)
            results.append(plain_segclip.label_map(state, photo, work.text.foreground, SPEC.segclip_threshold))
            confusion_matrix(read_mask(truth / f"{sample.id}.png"), results[-1], SPEC.num_labels)
    return results


def evaluation(work: CamWork, samples: list[Sample], truth: Path) -> float:
    """The seconds of our two stages."""
    start = time.perf_counter()
    list(need_all(stage_cams.run(work, samples, set())))
    job = evaluate.EvalJob(work.job.out_dir, truth, "attn_highres", SPEC.num_labels)
    list(need_all(evaluate.run(job, [sample.id for sample in samples], job.empty_totals(), 2)))
    return time.perf_counter() - start


def share_of_equal(work: CamWork, samples: Sequence[Sample], labels: Sequence[np.ndarray]) -> float:
    """Of the labels of all photos."""
    same = pixels = 0
    for sample, wanted in zip(samples, labels):
        stored = read_maps(work.path(sample.id), "attn_highres", len(SPEC.classes))
        found = labels_of(contest(stored.resized(stored.size), stored.kind), stored.keys)
        same, pixels = same + int((found == wanted).sum()), pixels + wanted.size
    return same / pixels


def memory(chosen: Any, folder: Path, lengths: Sequence[int]) -> list[dict[str, Any]]:
    """The most memory of both commands in one new process, for lists of several lengths."""
    rows = []
    for count in lengths:
        many = copies(chosen, folder / f"{count}", count)
        data = [*many.options(), "--labels", "all", "--cam_out_dir", str(folder / f"{count}_cams")]
        model = ["--method", "segclip", "--model", str(segclip_file("toy", folder)), "--device", "cpu"]
        commands = [("generate_cams", [*data, *model, "--quiet"]), ("eval_cam", [*data, "--quiet"])]
        (made, scored), _ = measure.run_fresh(*commands)
        rows.append({"images": count, "generate_mb": made.peak_mb, "eval_mb": scored.peak_mb})
    return rows


main = measure.command(parse, _run)

if __name__ == "__main__":
    sys.exit(main())
