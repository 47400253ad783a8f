"""The main job on the toy world: images -> CAMs -> masks -> scores, a picture and a page, below output/toyworld.

python -m scripts.demo
"""

import argparse
import sys

from cli import console
from cli.commands import COMMANDS, spelled
from cli.options import Parser, output_dir
from common.errors import EXIT_OK
from common.package import module

OUT = output_dir("toyworld", "")
STEPS = (
    ("cams",),
    ("scores", "--cam_type", "highres", "--json", f"{OUT}/scores/cam.json"),
    ("scores", "--json", f"{OUT}/scores/attn.json"),
    ("masks", "--json", f"{OUT}/scores/crf.json"),
    ("collect-scores", f"{OUT}/scores", "--out", f"{OUT}/scores.json"),
    ("preview", "--out", f"{OUT}/preview.png"),
    ("report", "--curve", "20"),
)
END = f"""
look at   {OUT}/report.html    every image, sortable, with scores; opens in a browser
          {OUT}/preview.png    image, truth, CAM, refined CAM, CRF labels, mask
          {OUT}/masks/         the masks, as a segmentation network reads them
          {OUT}/scores.json    all scores
next      one photo of your own, with CLIP weights of your own (any words will do as labels):
          python -m scripts.segment photo.jpg --labels dog person --model ViT-B-16.pt --out results
          a folder of photos, VOC or COCO: README.md, "Your own photos"
"""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        f"All stages on the embedded toy world, in {OUT} below the current folder. Run it again and it re-uses what "
        "is there.",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    parse(argv)
    return console.run(_run, "python -m scripts.demo")


def _run() -> int:
    for command, *options in STEPS:
        code = int(module(COMMANDS[command][0]).main(options))
        if code != EXIT_OK:
            return code
    print(spelled(END))
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
