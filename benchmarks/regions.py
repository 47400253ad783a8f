"""CLIP on regions against a plain transcription: regions and images a second, agreement, memory.

python -m benchmarks.regions [--quick] [--json FILE] [--threads 2] [--models ViT-B/16] [--precisions float32]

Regions of selective search, whose time is not counted. `regions`: from photos in memory to probabilities, ours with
the regions of all photos together. `whole method`: from the files of photos and label maps to the best class of every
pixel in a file; ours by the stage of generate_cams.py and by what eval_cam.py reads. Both compute with the same
weights; loading, the texts and the first pass, which warms up, are not counted. Memory: the most that a process of
generate_cams.py holds, with few and many photos, and with few and many regions.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks import measure
from benchmarks import plain_zsseg as plain
from benchmarks.material import MODELS, Photos, cam_job, copies, model_file, need_all, photos
from common.arguments import positive
from common.errors import EXIT_INCOMPLETE, EXIT_OK
from common.images import read_image
from dataset.mask_png import write_mask
from dataset.spec import Sample
from pipeline.files.cam_file import read_maps
from pipeline.methods.method import CamSettings
from pipeline.methods.zsseg import ZssegSettings
from pipeline.stages import cams as stage_cams
from pipeline.stages.cams import CamWork
from pipeline.steps.masks import contest, labels_of
from pipeline.steps.regions import LabelMap
from voc12.voc20 import SPEC
from zsseg.proposals.folder import FolderSettings
from zsseg.regions import Crops, classify, encode_regions
from zsseg.selective_search import search

LIKENESS = 0.8  # of the published proposals
TOLERANCES = {"float32": (1e-4, 0.999), "bfloat16": (0.5, 0.5)}  # of probabilities; least share of equal labels
MANY_REGIONS = 2000
COLUMNS: measure.Columns = {
    "model": ("model", "{}"),
    "precision": ("ours", "{}"),
    "what": ("what", "{}"),
    "count": ("of", "{}"),
    "per_s": ("a second", "{:.3g}"),
    "plain_per_s": ("plain", "{:.3g}"),
    "ratio": ("ratio", "{:.2f}"),
    "difference": ("max difference", "{:.1e}"),
    "equal": ("equal pixels", "{:.3%}"),
}
MEMORY: measure.Columns = {"what": ("process of generate_cams.py", "{}"), "peak_mb": ("most memory, MB", "{:.0f}")}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = measure.parser_of("CLIP on regions against a plain transcription of zsseg.")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["ViT-B/16"], help="random ViT-B/16, toy world")
    parser.add_argument(
        "--precisions", nargs="+", choices=tuple(TOLERANCES), default=["float32"], help="of our blocks but the last"
    )
    parser.add_argument("--photos", type=positive, help="how many; not given: 8, with --quick 2")
    parser.add_argument("--turns", type=positive, help="not given: 3, with --quick 1")
    parser.add_argument("--no_memory", action="store_true", help="leave the processes out whose memory is measured")
    return parser.parse_args(argv)


def _run(args: argparse.Namespace) -> int:
    turns = args.turns or (1 if args.quick else 3)
    rows: list[dict[str, Any]] = []
    with measure.cores(args.threads), TemporaryDirectory() as name:
        folder = Path(name)
        machine, chosen = measure.machine(), photos(args.photos or (2 if args.quick else 8), folder)
        print(measure.headline(f"regions: {chosen.source}, medians of {turns} turns", args.threads, machine))
        samples = proposed(chosen, folder)
        for model, precision in product(args.models, args.precisions):
            work = stage_cams.set_up(job_of(model_file(model, folder), folder, precision))
            for row in (regions_row(work, samples, folder, turns), method_row(work, samples, folder, turns)):
                rows.append({"model": model, "precision": precision, **row})
        print(measure.table(rows, COLUMNS))
        if not args.no_memory:
            memory = memory_rows(chosen, model_file("toy", folder), folder, args.quick)
            print(f"\n{measure.table(memory, MEMORY)}")
            rows += memory
    measure.write_record(args.json, "regions", machine, {"photos": chosen.source, "turns": turns}, rows)
    return EXIT_OK if agrees(rows) else EXIT_INCOMPLETE


def agrees(rows: list[dict[str, Any]]) -> bool:
    """Times mean something together only where both do the same; says on stderr where they do not."""
    apart = []
    for row in rows:
        most, least = TOLERANCES[row.get("precision", "float32")]
        if row.get("difference", 0) > most or row.get("equal", 1) < least:
            apart.append(row)
    for row in apart:
        print(f"error: {row['model']}, {row['what']}: not what the transcription gives", file=sys.stderr)
    return not apart


def proposed(chosen: Photos, folder: Path) -> list[Sample]:
    """The photos as samples of all classes, and a label map for each in folder/proposals."""
    samples = [Sample(sample.id, sample.image, tuple(range(len(SPEC.classes)))) for sample in chosen.samples()]
    (folder / "proposals").mkdir()
    for sample in samples:
        labels = search(np.asarray(read_image(sample.image)), LIKENESS)[1]
        np.save(folder / "proposals" / f"{sample.id}.npy", labels)
    return samples


def job_of(weights: Path, folder: Path, precision: str) -> stage_cams.CamJob:
    options = ZssegSettings(proposals="folder", templates="single", proposer=FolderSettings(str(folder / "proposals")))
    job = cam_job(
        weights,
        folder / f"cams-{precision}",
        settings=CamSettings(method="zsseg", options=options, precision=precision),
    )
    return replace(job, spec=SPEC)


def compared(
    ours: Callable[[], object], theirs: Callable[[], object], turns: int, count: int, what: str
) -> dict[str, Any]:
    seconds = measure.take_turns({"ours": measure.timed(ours), "plain": measure.timed(theirs)}, turns)
    per_s, plain_per_s = count / seconds["ours"], count / seconds["plain"]
    return {"what": what, "count": count, "per_s": per_s, "plain_per_s": plain_per_s, "ratio": per_s / plain_per_s}


def regions_row(work: CamWork, samples: list[Sample], folder: Path, turns: int) -> dict[str, Any]:
    """Photos and label maps in memory to the probabilities of every region."""
    text, classes = work.text.foreground, range(len(SPEC.classes))
    images = [np.asarray(read_image(sample.image)) for sample in samples]
    values = [np.load(folder / "proposals" / f"{sample.id}.npy") for sample in samples]

    def ours() -> list[torch.Tensor]:
        scenes = [(image, LabelMap.of(labels)) for image, labels in zip(images, values)]
        encoded = encode_regions(work.clip, scenes, Crops(), work.settings.precision)
        return [classify(found.features, text, classes) for found in encoded]

    def theirs() -> list[torch.Tensor]:
        tensors = [torch.from_numpy(image.copy()).permute(2, 0, 1).float() for image in images]
        return [
            plain.classified(work.clip, text, image, plain.one_hot(labels))[1] for image, labels in zip(tensors, values)
        ]

    found, wanted = ours(), theirs()
    difference = max(float((one - other).abs().max()) for one, other in zip(found, wanted))
    row = compared(ours, theirs, turns, sum(map(len, found)), "regions")
    return {**row, "difference": difference}


def method_row(work: CamWork, samples: list[Sample], folder: Path, turns: int) -> dict[str, Any]:
    """Files to files."""
    out = folder / "labels"
    out.mkdir(exist_ok=True)

    def ours() -> list[np.ndarray]:
        results = []
        for outcome in need_all(stage_cams.run(work, samples, set())):
            stored = read_maps(work.path(outcome.id), "attn_highres", len(SPEC.classes))
            labels = labels_of(contest(stored.resized(stored.size), stored.kind, False), stored.keys, False)
            write_mask(out / f"{outcome.id}.png", labels)
            results.append(labels)
        return results

    def theirs() -> list[np.ndarray]:
        text, maps = work.text.foreground, folder / "proposals"
        return [
            plain.labelled(work.clip, text, sample.image, maps / f"{sample.id}.npy", out / f"{sample.id}.npy")
            for sample in samples
        ]

    found = {sample.id: labels for sample, labels in zip(samples, theirs())}
    ids = [outcome.id for outcome in stage_cams.run(work, samples, set())]
    equal = [float((one == found[key]).mean()) for key, one in zip(ids, ours())]
    return {**compared(ours, theirs, turns, len(samples), "whole method"), "equal": float(np.mean(equal))}


def memory_rows(chosen: Photos, weights: Path, folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Processes with few and many photos, and with few and many regions of one."""
    many, rows = 8 if quick else 64, []
    few_regions, many_regions = folder / "few", folder / "many"
    for count in (2, many):
        repeated = copies(chosen, folder / f"copies{count}", count)
        rows.append({"what": f"{count} photos", "peak_mb": peak(repeated, weights, folder / f"out{count}")})
    one = copies(chosen, folder / "one", 1)
    image = np.asarray(read_image(one.root / "JPEGImages" / f"{one.ids[0]}.jpg"))
    for regions_folder, count in ((few_regions, 20), (many_regions, 200 if quick else MANY_REGIONS)):
        regions_folder.mkdir()
        pixels = np.arange(image.shape[0] * image.shape[1]).reshape(image.shape[:2])
        np.save(regions_folder / f"{one.ids[0]}.npy", pixels * count // pixels.size)
        options = ["--proposals", "folder", "--proposal_dir", str(regions_folder)]
        used = peak(one, weights, folder / f"out_{regions_folder.name}", *options)
        rows.append({"what": f"a photo with {count} regions", "peak_mb": used})
    return rows


def peak(chosen: Photos, weights: Path, out: Path, *more: str) -> float:
    options = [*chosen.options(), "--model", str(weights), "--cam_out_dir", str(out), "--device", "cpu", "--quiet"]
    method = ["--method", "zsseg", "--labels", "all", "--templates", "dataset", *more]
    usages, _ = measure.run_fresh(("generate_cams", [*options, *method]))
    return usages[0].peak_mb


main = measure.command(parse, _run)

if __name__ == "__main__":
    sys.exit(main())
