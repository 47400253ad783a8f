"""Every computing part on the GPU against the CPU: whether both do the same, and how fast each is.

bash benchmarks/gpu.sh [--json FILE]               below 8 minutes on one GPU
python -m benchmarks.gpu --device cpu --quick      a dry run of the check itself, without a GPU

Loading is not counted: every part runs once on a short list before, whose time is taken off where it loads a model.
CAM, and each dense method: a random ViT-B/16 on generated images of VOC's size. CRF: torch on the device, in one
batch, against numba.
End to end: scripts.run on scenes of the toy world, with its CRF, and with PAMR, CRF and votes of masks.
Segment-anything: a random SAM of ViT-B's size. Training: steps of scripts.train_segmentor on its masks.
All in float32, without TF32.
The exit code is 0 if all is within its tolerance, else 1; 2 where there is no GPU.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

import scripts.propose
import scripts.run
import scripts.train_segmentor
from benchmarks import measure
from benchmarks.cams import seconds_an_image
from benchmarks.crf import agreement, cam_probs, crf_images
from benchmarks.material import VOC_SIZES, cam_job, dino_folder, generated, model_file
from benchmarks.toyworld import run_stage
from clip.device import pick_device
from common.cores import available_cores
from common.errors import EXIT_OK
from common.parallel import ordered_map
from dataset.mask_png import read_mask
from pipeline.crf.dense_crf import dense_crf, dense_crf_batch
from pipeline.files.cam_file import load_cams
from pipeline.methods.method import CamSettings
from pipeline.methods.table import METHODS
from pipeline.stages import cams as stage_cams
from toyworld.layout import write_dataset
from toyworld.spec import VALIDATION_SEED
from training.board import read_log
from voc12.spec import SPEC

OUT_OF_TOLERANCE = 1
MAP_TOLERANCE = 0.01  # of a value of a map in [0, 1]
DENSE = ("sclip", "clearclip", "naclip", "resclip", "sc-clip", "sfp", "gem", "proxyclip", "freecp", "excel")
DECIDING = ("resclip", "sc-clip", "sfp")  # which tokens are outliers, which labels win
LABELS = 3  # of the CRF
TRAINING = ["--arch", "segformer-tiny", "--crop", "128", "--lr", "1e-3", "--readers", "0", "--overwrite"]
BATCH, COMPARED = 8, 10  # images a step, and steps whose losses are compared: later ones drift apart by themselves
COLUMNS: measure.Columns = {
    "what": ("what", "{}"),
    "images": ("images", "{}"),
    "device_images_per_s": ("images/s on the device", "{:.4g}"),
    "cpu_images_per_s": ("on the CPU", "{:.3g}"),
    "ratio": ("ratio", "{:.1f}"),
    "of": ("compared", "{}"),
    "value": ("found", "{:.5f}"),
    "limit": ("tolerance", "{}"),
    "verdict": ("", "{}"),
}
Row = dict[str, Any]
Main = Callable[[list[str] | None], int]


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = measure.parser_of("CAM, CRF, the whole road and training on the GPU against the CPU.")
    parser.set_defaults(threads=min(16, available_cores()))
    parser.add_argument("--device", default="cuda", help="what is compared with the CPU; cpu: a dry run")
    return parser.parse_args(argv)


def _run(args: argparse.Namespace) -> int:
    device = str(pick_device(args.device))
    rows = []
    torch.backends.cudnn.allow_tf32 = False  # what differs is then our code's, not the products' precision
    with measure.cores(args.threads), TemporaryDirectory() as name:
        machine = measure.machine(device)
        print(measure.headline("The device against the CPU", args.threads, machine), flush=True)
        for row in checks(device, Path(name), args.threads, args.quick):
            rows.append(row)
            print(f"{row['what']}: {row['verdict']}", file=sys.stderr, flush=True)
    print(measure.table(rows, COLUMNS))
    measure.write_record(args.json, "gpu", machine, {"threads": args.threads, "quick": args.quick}, rows)
    return EXIT_OK if all(row["verdict"] == "ok" for row in rows) else OUT_OF_TOLERANCE


def checks(device: str, folder: Path, threads: int, quick: bool) -> Iterator[Row]:
    """A row for each part."""
    yield cam_row("clip-es", device, folder, quick)
    yield cam_row("maskclip", device, folder, quick)
    for method in DENSE:
        yield cam_row(method, device, folder, quick, 4)
    yield crf_row(device, threads, quick)
    write_dataset(folder / "toy", VALIDATION_SEED, 4 if quick else 200)
    yield road_row(device, folder, threads)
    yield votes_row(device, folder, threads)
    yield sam_row(device, quick)
    yield training_row(device, folder, 2 if quick else 40)


def row_of(what: str, images: int, rates: tuple[float | None, float | None], of: str, value: float, limit: str) -> Row:
    """A row; `limit` is ">= X" or "<= X". A value that is not a number is out of tolerance."""
    sign, bound = limit.split()
    good = value >= float(bound) if sign == ">=" else value <= float(bound)
    ours, theirs = rates
    return {
        "what": what,
        "images": images,
        "device_images_per_s": ours,
        "cpu_images_per_s": theirs,
        "ratio": ours / theirs if ours and theirs else None,
        "of": of,
        "value": value,
        "limit": limit,
        "verdict": "ok" if good else "OUT OF TOLERANCE",
    }


def cam_row(method: str, device: str, folder: Path, quick: bool, times: int = 32) -> Row:
    """A method's maps of the same photos on both; the device gets them so many times for its rate."""
    photos = generated(2 if quick else 16, folder / "photos", [(64, 80)] if quick else VOC_SIZES)
    weights, samples = model_file("toy" if quick else "ViT-B/16", folder), photos.samples()
    own: dict[str, Any] = {"dino": str(dino_folder(folder, quick))} if method == "proxyclip" else {}
    if quick and method == "maskclip":
        own |= {"frame": (80, 64)}
    if quick and method in DENSE and method != "excel":
        own |= {"short_side": 64, "window": 48, "stride": 32}
    if method == "freecp":
        own |= {"redundancy": 0.0}  # nothing that is random stays at the published one
    settings = CamSettings(method=method, options=METHODS[method].settings(**own))
    works = {
        name: stage_cams.set_up(cam_job(weights, folder / method / name, where, settings=settings))
        for name, where in (("device", device), ("cpu", "cpu"))
    }
    many = samples * (1 if quick else times)
    seconds_an_image(works["device"], samples)  # warms up
    rates = 1 / seconds_an_image(works["device"], many), 1 / seconds_an_image(works["cpu"], samples)
    same = total = 0  # values of all maps, before and after the affinity
    for image_id, kind in product(photos.ids, ("highres", "attn_highres")):
        ours, theirs = (load_cams(work.path(image_id), kind, len(SPEC.classes))[1] for work in works.values())
        same += int(np.count_nonzero(np.abs(ours - theirs) <= MAP_TOLERANCE))
        total += ours.size
    limit = ">= 0.97" if method in DECIDING else ">= 0.995"
    return row_of(f"CAM, {method}", len(samples), rates, f"map values within {MAP_TOLERANCE}", same / total, limit)


def crf_row(device: str, threads: int, quick: bool) -> Row:
    images, _ = crf_images(1 if quick else 8)
    images = [image[:64, :80] for image in images] if quick else images
    probs = [cam_probs(LABELS, image.shape[:2]) for image in images]

    def on_cpu() -> list[np.ndarray]:
        return list(ordered_map(lambda pair: dense_crf(*pair, backend="numba"), list(zip(images, probs)), threads))

    def on_device(times: int = 1) -> list[np.ndarray]:
        return dense_crf_batch(images * times, probs * times, device=device)

    ours, theirs = on_device(), on_cpu()  # also compiles
    same = min(agreement(one, other)["labels"] for one, other in zip(ours, theirs))
    times = 1 if quick else 8
    rates = times * len(images) / measure.timed(partial(on_device, times))(), len(images) / measure.timed(on_cpu)()
    return row_of("CRF, torch against numba", len(images), rates, "labels of the worst image", same, ">= 0.999")


def rate(count: int, main: Main, options: list[str], one: list[str], whole: list[str]) -> float | None:
    """Images (or steps) a second beyond the first, by running a command with the options `one`, then with `whole`.

    None where the list took no longer than its first image did, which says nothing.
    """
    one_s, whole_s = (measure.timed(partial(run_stage, main, [*options, *more]))() for more in (one, whole))
    return (count - 1) / (whole_s - one_s) if whole_s > one_s else None


def road_row(
    device: str, folder: Path, threads: int, what: str = "scripts.run, toy world", more: Sequence[str] = ()
) -> Row:
    """Scenes to masks; those of the CPU stay in `masks cpu`, for the training. `more` are further options."""
    data, first, out = folder / "toy", folder / "first.txt", folder / "votes" if more else folder
    ids = sorted(path.stem for path in (data / "JPEGImages").iterdir())
    first.write_text(f"{ids[0]}\n")
    rates = []
    for name, where in (("device", device), ("cpu", "cpu")):
        options = ["--img_root", str(data), "--device", where, "--num_workers", str(threads), *more]
        one = ["--pseudo_mask_save_path", str(out / f"one {name}"), "--split_file", str(first)]
        whole = ["--pseudo_mask_save_path", str(out / f"masks {name}")]
        rates.append(rate(len(ids), scripts.run.main, options, one, whole))
    files = [[out / f"masks {name}" / f"{image_id}.png" for name in ("device", "cpu")] for image_id in ids]
    pairs = [(read_mask(ours), read_mask(theirs)) for ours, theirs in files]
    same = sum(int(np.count_nonzero(ours == theirs)) for ours, theirs in pairs) / sum(ours.size for ours, _ in pairs)
    return row_of(what, len(ids), (rates[0], rates[1]), "mask pixels", same, ">= 0.995")


def votes_row(device: str, folder: Path, threads: int) -> Row:
    """The same with every step of --refine; the masks that vote are made before."""
    made = folder / "regions"
    run_stage(scripts.propose.main, ["--img_root", str(folder / "toy"), "--out", str(made), "--fz_min_size", "40"])
    votes = ["--refine", "pamr,crf,sam", "--votes", "felzenszwalb", "--fz_min_size", "40", "--vote_dir", str(made)]
    return road_row(device, folder, threads, "scripts.run, PAMR, CRF, votes", votes)


def sam_row(device: str, quick: bool) -> Row:
    """A photo and a grid of points to masks."""
    from transformers import SamConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

    small: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 64}
    vision = SamVisionConfig(**small, image_size=256, global_attn_indexes=[1]) if quick else SamVisionConfig()
    torch.manual_seed(0)
    side, points = (256, 4) if quick else (1024, 16)
    prompts = SamPromptEncoderConfig(image_size=side)
    config = SamConfig(vision_config=vision.to_dict(), prompt_encoder_config=prompts.to_dict())
    network: Any = SamModel(config).eval()
    photo = torch.randn(1, 3, side, side)
    places = (torch.arange(points) + 0.5) * side / points
    grid = torch.cartesian_prod(places, places).view(1, -1, 1, 2)
    found, rates = [], []
    for where in (device, "cpu"):
        network.to(where)

        @torch.no_grad()
        def masks(where: str = where) -> Tensor:
            return network(photo.to(where), input_points=grid.to(where)).pred_masks.cpu() > 0

        found.append(masks())
        rates.append(1 / measure.timed(masks)())
    same = float((found[0] == found[1]).float().mean())
    return row_of("segment-anything, ViT-B", 1, (rates[0], rates[1]), "mask pixels", same, ">= 0.99")


def training_row(device: str, folder: Path, steps: int) -> Row:
    """The losses of a network that begins with the same weights and gets the same crops on both."""
    rates, losses = [], []
    for name, where in (("device", device), ("cpu", "cpu")):
        out = folder / f"network {name}"
        options = ["--img_root", str(folder / "toy"), "--masks", str(folder / "masks cpu"), "--device", where]
        options += [*TRAINING, "--batch_size", str(BATCH), "--out", str(out)]
        counts = (["--max_iters", str(count)] for count in (1, steps))
        per_step = rate(steps, scripts.train_segmentor.main, options, *counts)
        rates.append(BATCH * per_step if per_step else None)
        losses.append([line["loss"] for line in read_log(out) if "loss" in line])
    assert len(losses[0]) == len(losses[1]) == steps
    largest = max(abs(ours - theirs) / theirs for ours, theirs in list(zip(*losses))[:COMPARED])
    return row_of("training, SegFormer", steps * BATCH, (rates[0], rates[1]), "loss, relative", largest, "<= 0.05")


main = measure.command(parse, _run)

if __name__ == "__main__":
    sys.exit(main())
