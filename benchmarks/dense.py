"""The dense methods against a plain transcription that looks at one window after the other; whether both do the same.

python -m benchmarks.dense [--quick] [--json FILE] [--threads 2] [--device auto] [--model ViT-B/16] [--methods NAME ...]

Both go from photos to a confusion matrix on VOC's 21 labels, at the published settings, with the same random weights;
ExCEL with the photos' labels, the others with all classes. Ours writes and reads its CAM files on the way, as
generate_cams.py and eval_cam.py do. Loading, the text embeddings and the first pass, from which the labels are
compared, are not counted. Ours applies thresholds and PAMR to a value for every four pixels, the transcription to
every pixel, so that labels differ a little; what must agree are the maps that they are made of.
ProxyCLIP's other network is a random ViT-B/16. FreeCP stands on ClearCLIP, and tells no classes apart in crops.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import measure
from benchmarks import plain_dense as plain
from benchmarks.material import MODELS, dino_folder, model_file, photos
from benchmarks.plain_segclip import read_photo
from benchmarks.segclip_evaluation import ON_CPU, ON_GPU, race
from clip.device import pick_device
from clip.image import prepare_image
from common.arguments import positive
from common.errors import EXIT_INCOMPLETE, EXIT_OK
from common.images import read_image
from dataset.mask_png import read_mask
from dataset.spec import Sample
from pipeline.methods import clearclip, freecp, gem, naclip, proxyclip, resclip, sc_clip, sclip, sfp
from pipeline.methods.dino import network_of
from pipeline.methods.method import CamSettings
from pipeline.methods.table import METHODS
from pipeline.methods.windowed import merged, merged_cosines
from pipeline.stages import cams as stage_cams
from pipeline.stages.cams import CamJob, CamWork, ModelSource
from pipeline.steps.scores import confusion_matrix
from voc12.spec import SPEC

OUTPUTS: dict[str, Any] = {
    "sclip": sclip.output,
    "clearclip": clearclip.output,
    "naclip": naclip.output,
    "resclip": resclip.output,
    "sc-clip": sc_clip.output,
    "sfp": sfp.output,
    "gem": gem.output,
    "proxyclip": proxyclip.output,
}
NAMES = (*OUTPUTS, "freecp", "excel")
OWN: dict[str, dict[str, Any]] = {}  # settings of methods in place of the published ones
TOLERANCE = 2e-3  # of the maps' largest value
COLUMNS: measure.Columns = {
    "method": ("method", "{}"),
    "way": ("ours", "{}"),
    "images_per_s": ("images/s", "{:.3g}"),
    "plain_images_per_s": ("plain, images/s", "{:.3g}"),
    "ratio": ("ratio", "{:.2f}"),
    "difference": ("maps apart", "{:.1e}"),
    "equal": ("equal labels", "{:.2%}"),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = measure.parser_of("The dense methods against a plain transcription.", True)
    parser.add_argument("--model", choices=MODELS, default="ViT-B/16", help="random, or the toy world's")
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME")
    parser.add_argument("--photos", type=positive, help="how many; not given: 6, with --quick 1")
    parser.add_argument("--turns", type=positive, help="not given: 3, with --quick 1")
    return parser.parse_args(argv)


def _run(args: argparse.Namespace) -> int:
    device, turns = pick_device(args.device), args.turns or (1 if args.quick else 3)
    ways = (ON_CPU if device.type == "cpu" else ON_GPU)[: 1 if args.quick else None]
    rows = []
    with measure.cores(args.threads), TemporaryDirectory() as name:
        folder, machine = Path(name), measure.machine(device)
        chosen = photos(args.photos or (1 if args.quick else 6), folder)
        print(measure.headline(f"dense methods: {chosen.source}, medians of {turns} turns", args.threads, machine))
        for method in args.methods:
            work = work_of(method, args.model, folder, str(device))
            samples = chosen.samples()
            if METHODS[method].unlabelled:
                samples = [replace(sample, labels=tuple(range(len(SPEC.classes)))) for sample in samples]
            reference = Transcription(method, work)
            difference = reference.difference(samples[0])
            labels = partial(reference.labels, samples, chosen.masks)
            for row in race(work, samples, chosen.masks, ways, turns, labels):
                rows.append({"method": method, **row, "difference": difference})
                print(f"{method}, {row['way']}: {row['ratio']:.2f}", file=sys.stderr, flush=True)
    print(measure.table(rows, COLUMNS))
    settings = {"photos": chosen.source, "turns": turns, "threads": args.threads, "model": args.model}
    measure.write_record(args.json, "dense", machine, settings, rows)
    return verdict(rows)


def verdict(rows: Sequence[measure.Row]) -> int:
    """Times mean something together only where both do the same."""
    wrong = [row["method"] for row in rows if not row["difference"] <= TOLERANCE]
    for method in dict.fromkeys(wrong):
        print(f"error: {method}: the maps are not those of the transcription", file=sys.stderr)
    return EXIT_INCOMPLETE if wrong else EXIT_OK


def work_of(method: str, model: str, folder: Path, device: str) -> CamWork:
    """The method on its device; FreeCP keeps all classes that it finds, and tells none apart in crops."""
    own = dict(OWN.get(method, {}))
    if method == "proxyclip":
        own["dino"] = str(dino_folder(folder))
    if method == "freecp":
        own |= {"redundancy": 0.0, "ambiguity": 2.0}
    options = METHODS[method].settings(**own)
    source = ModelSource(str(model_file(model, folder)), device=device)
    return stage_cams.set_up(CamJob(SPEC, source, CamSettings(method=method, options=options), folder / method))


class Transcription:
    """One method at the settings of our work, by benchmarks/plain_dense.py."""

    def __init__(self, method: str, work: CamWork) -> None:
        self.method, self.work, self.options = method, work, work.settings.options
        self.state = work.clip.model.state_dict()
        everything = range(len(SPEC.classes))
        self.texts, self.owners = work.text.words_of(everything)
        if method != "excel":
            names = ("short_side", "window", "stride")
            more = {name: getattr(self.options, name, None) for name in ("rcs", "sfr", "first_threshold", "redundancy")}
            thresholds = {name: getattr(self.options, name, 0) for name in ("prob_threshold", "area_threshold", "pamr")}
            same = {name: getattr(self.options, name) for name in names}
            self.constants = plain.Constants(**same, **thresholds, scale=self.options.logit_scale, more=more)

    @property
    def leaving(self) -> plain.Leaving:
        return self.proxy if self.method == "proxyclip" else plain.METHODS[self.method]

    def proxy(self, state: plain.State, window: plain.Window) -> Tensor:
        """The other network sees the window alone."""
        network = network_of(self.options.dino, self.work.clip.device)
        grid = (window.image.shape[1] // network.patch, window.image.shape[2] // network.patch)
        return plain.proxyclip(state, window, network.features(window.image[None], grid)[0], grid)

    def maps(self, image: Tensor) -> Tensor:
        """Cosines (Q, H, W) of a scaled image (3, H, W), or FreeCP's maps (C, H, W)."""
        if self.method == "freecp":
            return plain.slide(image, self.constants, self.purified)
        return plain.image_cosines(self.state, self.leaving, image, self.texts, self.owners, self.constants)

    def purified(self, window: Tensor) -> Tensor:
        patch, (height, width) = self.work.clip.patch_size, window.shape[1:]
        tall, wide = -height % patch, -width % patch
        top, left = tall // 2, wide // 2
        padded = torch.nn.functional.pad(window, (left, wide - left, top, tall - top))
        maps = plain.freecp_window(self.state, padded, self.texts, self.owners, self.constants)
        return maps[:, top : top + height, left : left + width]

    def excel(self, sample: Sample) -> Tensor:
        preparation = METHODS["excel"].preparation(self.work.clip, self.options)
        image = prepare_image(read_image(sample.image), self.work.clip.patch_size, None, preparation)
        texts = torch.cat([self.work.text.foreground, self.work.text.background])
        return plain.excel_maps(self.state, image.to(texts.device), texts, sample.labels, self.options.box_threshold)

    def labels(self, samples: Sequence[Sample], truth: Path) -> list[np.ndarray]:
        """The label maps of photos, whose confusion matrices are made too."""
        results = []
        with torch.device(self.work.clip.device):
            for sample in samples:
                photo = read_photo(sample.image)
                if self.method == "excel":
                    keys = np.array([0, *(label + 1 for label in sample.labels)])
                    found = keys[plain.labels_of_maps(self.excel(sample).cpu(), photo.shape[:2])]
                elif self.method == "freecp":
                    image = plain.scaled(photo, self.constants).to(self.work.clip.device)
                    found = plain.labels_of_maps(self.maps(image).cpu(), photo.shape[:2])
                else:
                    words = (self.texts, self.owners, self.constants)
                    found = plain.label_map_of(self.state, self.leaving, photo, *words)
                confusion_matrix(read_mask(truth / f"{sample.id}.png"), found, SPEC.num_labels)
                results.append(found)
        return results

    def difference(self, sample: Sample) -> float:
        """The largest between our maps of a photo and its own, relative to the largest value."""
        work = self.work
        method = METHODS[self.method]
        with torch.device(work.clip.device), torch.no_grad():
            if self.method == "excel":
                theirs = self.excel(sample)
                preparation = method.preparation(work.clip, self.options)
                image = prepare_image(read_image(sample.image), work.clip.patch_size, None, preparation)
                images = image[None].to(work.clip.device)
                ((_, ours),) = method.maps(work.clip, images, [sample.labels], work.text, work.settings)
                return apart(ours, theirs)
            image = plain.scaled(read_photo(sample.image), self.constants).to(work.clip.device)
            theirs = self.maps(image)
            ours = self.ours(image[None])[0]
            return apart(ours, theirs)

    def ours(self, images: Tensor) -> Tensor:
        work, words = self.work, (self.texts, self.owners)
        if self.method == "freecp":
            score: Callable[..., Tensor] = partial(freecp.purified, work.clip, self.options, len(SPEC.classes))
            blocks = len(work.clip.visual.transformer.resblocks)
            return merged(work.clip, images, *words, work.settings, score, blocks)[:, len(SPEC.classes) :]
        return merged_cosines(work.clip, OUTPUTS[self.method], images, *words, work.settings)


def apart(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12))


main = measure.command(parse, _run)

if __name__ == "__main__":
    sys.exit(main())
