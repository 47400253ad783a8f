"""From images and labels to mask PNGs as the reference does it: the plain transcription, then pydensecrf, by files.

python -m benchmarks.plain_road --img_root VOC2012/JPEGImages --split_file ids.txt --model ViT-B-16.pt --out DIR

Two passes over the list, as the reference's two scripts: maps in full size are written, then read again for the CRF.
Masks as in CLIP-ES (Lin et al., CVPR 2023, section 3.3).
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.plain_clip_es import load_plain, plain_maps, save
from cli import console
from cli.options import Parser
from common.arguments import positive
from common.errors import EXIT_OK
from common.images import read_image
from dataset.spec import Sample
from dataset.split_file import read_split
from dataset.voc_layout import voc_paths, voc_samples
from voc12.spec import SPEC

MEAN_BGR = (104.008, 116.669, 122.675)
CONFIDENCE, UNSURE = 0.95, 255


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser("Images + labels in VOC layout -> masks, as plainly as the reference does it.")
    parser.add_argument("--img_root", type=Path, required=True)
    parser.add_argument("--split_file", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="weight file")
    parser.add_argument("--out", type=Path, required=True, help="gets the folders cams and masks")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--crf_workers", type=positive, default=1, help="processes of the CRF")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    paths = voc_paths(args.img_root, args.split_file)
    samples, _ = voc_samples(paths, SPEC.classes, read_split(paths.split))
    for folder in ("cams", "masks"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    write_maps(args, samples)
    if args.crf_workers == 1:
        for sample in samples:
            write_mask(args.out, sample)
    else:
        with ProcessPoolExecutor(args.crf_workers, get_context("spawn")) as pool:
            list(pool.map(partial(write_mask, args.out), samples))
    return EXIT_OK


def write_maps(args: argparse.Namespace, samples: list[Sample]) -> None:
    model = load_plain(args.model, SPEC, args.device)
    for sample in samples:
        save(args.out / "cams" / f"{sample.id}.npz", plain_maps(model, read_image(sample.image), sample.labels))


def write_mask(out: Path, sample: Sample) -> None:
    """The mask of one image from its file of maps."""
    with np.load(out / "cams" / f"{sample.id}.npz") as file:
        keys, maps = file["keys"], file["attn_highres"].astype(np.float32)
    probabilities = np.concatenate([1 - maps.max(axis=0, keepdims=True), maps])
    bgr = np.asarray(read_image(sample.image))[..., ::-1].astype(np.float32) - np.array(MEAN_BGR, np.float32)
    q = crf((bgr.astype(np.int32) % 256).astype(np.uint8), probabilities)  # the reference's uint8 wraps around
    labels = np.pad(keys + 1, (1, 0))[q.argmax(axis=0)]
    mask = np.where(q.max(axis=0) < CONFIDENCE, UNSURE, labels).astype(np.uint8)
    Image.fromarray(mask).save(out / "masks" / f"{sample.id}.png")


def crf(image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Q (K, H, W)."""
    from pydensecrf.densecrf import DenseCRF2D

    count, height, width = probabilities.shape
    model = DenseCRF2D(width, height, count)
    model.setUnaryEnergy(-np.log(np.clip(probabilities, 1e-5, 1)).reshape(count, -1))
    model.addPairwiseGaussian(sxy=1, compat=3)
    model.addPairwiseBilateral(sxy=67, srgb=3, rgbim=np.ascontiguousarray(image), compat=4)
    return np.array(model.inference(10)).reshape(probabilities.shape)


if __name__ == "__main__":
    sys.exit(main())
