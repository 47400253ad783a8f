"""Every method on the toy world's unseen test seeds, with and without labels: the table of docs/measurements.md.

python -m benchmarks.methods [--methods naclip maskclip] [--seeds 777] [--model FILE] [--json FILE] [--quick]
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import eval_cam
import eval_cam_with_crf
import generate_cams
from benchmarks import measure
from benchmarks.toyworld import run_stage
from cli.options import Parser, add_json
from common.errors import EXIT_OK
from common.files import write_text
from pipeline.methods.table import METHODS
from scripts import tag_images
from toyworld.layout import write_dataset
from toyworld.scenes import Style, draw_scene
from toyworld.spec import SPEC, TEST_COUNT, TEST_SEEDS, WEIGHTS

LABELS = {"none": "without labels", "given": "with labels"}
REFINED: dict[str, list[str]] = {
    "": [],
    "crf": ["--refine", "crf"],
    "crf, votes": ["--refine", "crf,sam", "--votes", "felzenszwalb"],
}
LEFT_OUT = {  # and why
    "segclip": "its own weights",
    "zsseg": "scripts/compare_toyworld.sh has it",
    "proxyclip": "a DINO",
    "sam3": "SAM 3",
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser("mIoU of each method on scenes of other seeds than the toy world's CLIP was trained on.")
    parser.add_argument("--methods", nargs="+", choices=methods(), default=methods(), metavar="NAME", help="these only")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(TEST_SEEDS), help="one set of scenes each")
    parser.add_argument("--model", default=str(WEIGHTS), help="weight file; not given: the committed one")
    parser.add_argument("--quick", action="store_true", help="ten scenes a seed, to try it out")
    add_json(parser)
    return parser.parse_args(argv)


def methods() -> list[str]:
    return [name for name in METHODS if name not in LEFT_OUT]


def _run(args: argparse.Namespace) -> int:
    count, found = 10 if args.quick else TEST_COUNT, dict[str, dict[str, list[float]]]()
    images: list[dict[str, float]] = []
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write_dataset(root / "data", seed, count)
            images.append(image_scores(root, args.model, seed, count))
            for name in args.methods:
                row = found.setdefault(name, {})
                for key, score in method_scores(root, args.model, name).items():
                    row.setdefault(key, []).append(score)
    keys = [f"{labels} {refined}".strip() for labels in LABELS for refined in REFINED]
    rows = [{"method": name, **{key: spread(row.get(key)) for key in keys}} for name, row in found.items()]
    titles = [title + (f", {refined}" if refined else "") for title in LABELS.values() for refined in REFINED]
    print(measure.table(rows, {"method": ("method", "{}"), **{key: (title, "{}") for key, title in zip(keys, titles)}}))
    for key in images[0]:
        print(f"{key}: {spread([scores[key] for scores in images])}")
    if args.json:
        write_text(args.json, json.dumps({"seeds": args.seeds, "images": images, "methods": found}, indent=2) + "\n")
    return EXIT_OK


def spread(scores: list[float] | None) -> str:
    """The mean in percent, and the difference of the best and the worst seed."""
    if not scores:
        return ""
    text = f"{100 * mean(scores):.1f}"
    return text if len(scores) == 1 else f"{text} ({100 * (max(scores) - min(scores)):.1f})"


def image_scores(root: Path, model: str, seed: int, count: int) -> dict[str, float]:
    """What CLIP says of whole images: the class of the highest score is there, and how good TagCLIP's labels are.

    Leaves the labels in `tags.txt`.
    """
    options = ["--img_root", str(root / "data"), "--model", model, "--out", str(root / "tags.txt")]
    tags = score(tag_images.main, [*options, "--dataset", SPEC.name], root)
    return {"class token's first choice is there": first_choice(model, seed, count), **flat(tags)}


def flat(scores: dict[str, Any]) -> dict[str, float]:
    """The numbers of TagCLIP's scores that are shares, by their names."""
    return {f"TagCLIP {key}": value for key, value in scores.items() if isinstance(value, float) and 0 <= value <= 1}


def first_choice(model: str, seed: int, count: int) -> float:
    """The share of scenes that show the class that the class token is most similar to."""
    import torch
    from PIL import Image

    from clip.image import prepare_image
    from clip.load import load_clip
    from clip.vision import class_token_features, vision_forward
    from pipeline.methods.method import CamSettings
    from pipeline.stages.cams import text_set

    clip = load_clip(model)
    right, words = 0, text_set(clip, SPEC, CamSettings()).foreground
    for index in range(count):
        scene = draw_scene(seed, index, Style())
        output = vision_forward(clip.visual, prepare_image(Image.fromarray(scene.image), clip.patch_size)[None])
        with torch.no_grad():
            best = (class_token_features(clip.visual, output.last_output) @ words.T).argmax().item()
        right += SPEC.classes[int(best)] in scene.classes
    return right / count


def method_scores(root: Path, model: str, name: str) -> dict[str, float]:
    """mIoU by labels and refinement; a method that needs labels gets TagCLIP's where none are given."""
    scores, data = {}, ["--img_root", str(root / "data")]
    unlabelled = str(root / "tags.txt") if METHODS[name].needs_labels else "all"
    for labels, given in {"none": ["--labels", unlabelled], "given": []}.items():
        place = [*data, "--cam_out_dir", str(root / f"{name}-{labels}")]
        run_stage(generate_cams.main, [*place, "--model", model, "--method", name, *given])
        for refined, options in REFINED.items():
            stage = eval_cam_with_crf.main if refined else eval_cam.main
            extra = ["--eval_only", *options] if refined else []
            scores[f"{labels} {refined}".strip()] = score(stage, [*place, *extra], root)["miou"]
    return scores


def score(stage: Callable[[list[str] | None], int], options: list[str], root: Path) -> dict[str, Any]:
    run_stage(stage, [*options, "--json", str(root / "scores.json")])
    return json.loads((root / "scores.json").read_text(encoding="utf-8"))


main = measure.command(parse, _run)

if __name__ == "__main__":
    sys.exit(main())
