"""Votes of masks on labels: what they add to reading the masks, against a plain vote, and the memory of many classes.

python -m benchmarks.votes [--quick] [--json FILE] [--threads 1]

Masks of wavy ellipses, in the files that scripts/propose.py writes. `reading`: a file to its masks, as pycocotools
unpacks them, which every vote needs; `vote`: from the file's run lengths to the new labels by ours; `plain`: a loop
over the unpacked masks that paints and counts. All take turns on the same labels, and both votes must give the same.
Memory: the most that a process of eval_cam_with_crf.py holds, for photos of 12 million pixels with 20 and 171 classes,
and for one and four of them.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle  # type: ignore[import-untyped]

from benchmarks import measure
from common.arguments import positive
from common.errors import EXIT_INCOMPLETE, EXIT_OK
from common.provenance import source_of
from dataset.mask_png import read_mask
from pipeline.files.cam_file import save_cams
from pipeline.steps.maps import Cams
from pipeline.steps.regions import RunLengths
from pipeline.steps.votes import voted
from zsseg.proposals.files import read_regions, write_regions

SIZE = (375, 500)  # of VOC
LABELS = 4
LARGE = (3000, 4000)
COLUMNS: measure.Columns = {
    "masks": ("masks", "{}"),
    "reading_ms": ("reading, ms", "{:.1f}"),
    "vote_ms": ("vote, ms", "{:.1f}"),
    "added": ("added to reading", "{:.2f}"),
    "max_iou_ms": ("max-iou, ms", "{:.1f}"),
    "plain_ms": ("plain vote, ms", "{:.1f}"),
    "ratio": ("plain to ours", "{:.1f}"),
    "equal": ("equal pixels", "{:.2%}"),
}
MEMORY: measure.Columns = {"what": ("process of eval_cam_with_crf.py", "{}"), "peak_mb": ("most memory, MB", "{:.0f}")}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = measure.parser_of("Votes of masks against reading them, and against a plain vote.")
    parser.set_defaults(threads=1)
    parser.add_argument("--masks", nargs="+", type=positive, metavar="N", help="not given: 50 200 10000, or 20")
    parser.add_argument("--turns", type=positive, help="not given: 5, with --quick 1")
    parser.add_argument("--no_memory", action="store_true", help="leave the processes out whose memory is measured")
    return parser.parse_args(argv)


def _run(args: argparse.Namespace) -> int:
    turns = args.turns or (1 if args.quick else 5)
    with measure.cores(args.threads), TemporaryDirectory() as name:
        folder, machine = Path(name), measure.machine()
        print(
            measure.headline(f"votes on {SIZE[1]} x {SIZE[0]} pixels, medians of {turns} turns", args.threads, machine)
        )
        counts = args.masks or ([20] if args.quick else [50, 200, 10_000])
        rows = [vote_row(folder, count, turns) for count in counts]
        print(measure.table(rows, COLUMNS))
        if not args.no_memory:
            memory = memory_rows(folder, (300, 400) if args.quick else LARGE)
            print(f"\n{measure.table(memory, MEMORY)}")
            rows += memory
    measure.write_record(args.json, "votes", machine, {"size": SIZE, "turns": turns}, rows)
    return EXIT_OK if all(row.get("equal", 1) == 1 for row in rows) else EXIT_INCOMPLETE


def ellipse(random: np.random.Generator) -> np.ndarray:
    """(H, W) bool, from a few pixels to a third of the photo, with a wavy border."""
    height, width = SIZE
    rows, columns = np.mgrid[:height, :width]
    y, x = random.integers(0, height), random.integers(0, width)
    tall, wide = random.uniform(4, height / 3), random.uniform(4, width / 3)
    waves = 1 + 0.3 * np.sin(columns / random.uniform(3, 30))
    return ((rows - y) / tall) ** 2 + ((columns - x) / wide) ** 2 < waves


def plain_vote(labels: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """Each pixel to the smallest mask that covers it, each mask to its most frequent label: planes (Q, H, W)."""
    owner = np.full(labels.shape, -1)
    for number in sorted(range(len(planes)), key=lambda number: (-int(planes[number].sum()), -number)):
        owner[planes[number] > 0] = number
    result = labels.copy()
    for number in range(len(planes)):
        members = labels[owner == number]
        if len(members):
            result[owner == number] = np.bincount(members).argmax()
    return result


def unpacked(regions: RunLengths) -> np.ndarray:
    """(Q, H, W) uint8, as pycocotools unpacks them."""
    packed = [{"size": list(regions.size), "counts": counts} for counts in regions.counts]
    return np.stack([rle.decode(one) for one in packed])


def vote_row(folder: Path, count: int, turns: int) -> dict[str, Any]:
    random = np.random.default_rng(count)
    path = folder / f"{count}.npz"
    write_regions(path, RunLengths.of((ellipse(random) for _ in range(count)), SIZE), {})
    blocks = random.integers(0, LABELS, (SIZE[0] // 25, SIZE[1] // 25)).astype(np.uint8)
    labels = np.kron(blocks, np.ones((25, 25), np.uint8))
    regions = read_regions(path)
    assert isinstance(regions, RunLengths)
    plain = count <= 1000  # else its masks take gigabytes

    def read() -> None:
        again = read_regions(path)
        assert isinstance(again, RunLengths)
        for counts in again.counts:
            rle.decode({"size": list(again.size), "counts": counts})

    contestants = {
        "reading": measure.timed(read),
        "vote": measure.timed(partial(voted, labels, regions)),
        "max_iou": measure.timed(partial(voted, labels, regions, "max-iou-imp2")),
    }
    if plain:
        planes = unpacked(regions)
        contestants["plain"] = measure.timed(partial(plain_vote, labels, planes))
    seconds = measure.take_turns(contestants, turns)
    row = {"masks": count, **{f"{name}_ms": 1000 * value for name, value in seconds.items()}}
    row["added"] = seconds["vote"] / seconds["reading"]
    if plain:
        equal = float((voted(labels, regions)[0] == plain_vote(labels, planes)).mean())
        row |= {"ratio": seconds["plain"] / seconds["vote"], "equal": equal}
    return row


def memory_rows(folder: Path, size: tuple[int, int]) -> list[dict[str, Any]]:
    rows = []
    for classes, count in ((20, 1), (171, 1), (171, 4)):
        root = folder / f"{classes} {count}"
        ended = measure.run_fresh(("eval_cam_with_crf", large_road(root, size, classes, count)))[0][0]
        assert read_mask(root / "masks" / "0.png").shape == size
        what = f"{count} photo{'s' if count > 1 else ''} of {size[1]} x {size[0]}, {classes} classes"
        rows.append({"what": what, "peak_mb": ended.peak_mb})
    return rows


def large_road(root: Path, size: tuple[int, int], classes: int, count: int) -> list[str]:
    """Photos of a folder with their CAM files; returns the options of the CRF's stage."""
    (root / "photos").mkdir(parents=True)
    random = np.random.default_rng(classes)
    (root / "classes.txt").write_text("".join(f"class {number}\n" for number in range(classes)), "utf-8")
    noise = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    for number in range(count):
        path = root / "photos" / f"{number}.png"
        Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC).save(path)
        maps = random.random((classes, 20, 30)).astype(np.float32)
        save_cams(
            root / "cams" / f"{number}.npz", Cams(np.arange(classes), maps, maps, size), {"source": source_of(path)}
        )
    data = ["--dataset", "folder", "--img_root", str(root / "photos"), "--classes", str(root / "classes.txt")]
    folders = ["--cam_out_dir", str(root / "cams"), "--pseudo_mask_save_path", str(root / "masks")]
    return [*data, *folders, "--labels", "all", "--device", "cpu", "--num_workers", "1", "--quiet"]


main = measure.command(parse, _run)

if __name__ == "__main__":
    sys.exit(main())
