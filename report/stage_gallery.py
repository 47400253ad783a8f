"""The second loop of scripts/report.py: the pictures of the images that are shown, as tiles in a spool file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

from common.errors import UserError
from common.images import read_image
from common.outcome import Outcome
from common.parallel import ordered_map
from dataset.mask_png import read_mask
from dataset.spec import IGNORE_INDEX
from dataset.voc_layout import find_image
from pipeline.files.cam_file import load_cams
from pipeline.stages.evaluate import check_shape
from report.gallery import as_text, tile_size, tiles_of
from report.stage_report import Entry, ReportJob, truth_of

MOST_CAMS = 6  # maps shown of one image, the strongest ones


@dataclass(frozen=True)
class Pictures:
    """What can be seen of one image; None for what is not there.

    photo       (H, W, 3) uint8 RGB
    keys, maps  (k,) classes and (k, H, W) maps in [0, 1], at most MOST_CAMS, strongest first
    mask, truth (H, W) uint8
    problems    why something is not there
    """

    entry: Entry
    photo: np.ndarray | None
    keys: np.ndarray
    maps: np.ndarray
    mask: np.ndarray
    truth: np.ndarray | None
    has_background: bool
    problems: tuple[str, ...] = ()


def pictures_of(job: ReportJob, entry: Entry) -> Pictures:
    """Read one image's pictures. A missing photo or CAM file costs that picture; a missing mask is a UserError."""
    mask = read_mask(job.masks / f"{entry.id}.png")
    problems: list[str] = []
    photo = keys = maps = None
    try:
        photo = _photo(job, entry.id, mask)
    except UserError as error:
        problems.append(str(error))
    try:
        keys, maps = _strongest(job, entry.id, mask)
    except UserError as error:
        problems.append(str(error))
    if keys is None or maps is None:
        keys, maps = np.empty(0, np.int64), np.empty((0, *mask.shape), np.float32)
    return Pictures(entry, photo, keys, maps, mask, truth_of(job, entry.id), job.spec.has_background, tuple(problems))


def _photo(job: ReportJob, image_id: str, mask: np.ndarray) -> np.ndarray:
    path = find_image(job.images, image_id)
    rgb = np.asarray(read_image(path))
    if rgb.shape[:2] != mask.shape:
        raise UserError(f"{path}: size {rgb.shape[:2]} where its mask has {mask.shape}; made from other images?")
    return rgb


def _strongest(job: ReportJob, image_id: str, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    path = job.cams / f"{image_id}.npz"
    keys, maps = load_cams(path, job.cam_type, len(job.spec.classes))
    check_shape(path, maps.shape[1:], mask)
    order = np.argsort(-maps.mean(axis=(1, 2)), kind="stable")[:MOST_CAMS]
    return keys[order], maps[order]


# --- into the spool -------------------------------------------------------------------------------


@dataclass
class Spool:
    """Tiles in a file, one `<script>` element an image, and what the page says of each image.

    stream   a temporary file, so that memory does not grow with the number of images
    records  for page.js: see `_record`
    """

    stream: IO[bytes]
    records: list[dict[str, Any]] = field(default_factory=list)

    def add(self, pictures: Pictures, tiles: list[bytes]) -> None:
        index = len(self.records)
        self.stream.write(b'<script type="text/plain" id="tiles-%d">%s</script>\n' % (index, as_text(tiles)))
        self.records.append(_record(index, pictures))


def _record(index: int, pictures: Pictures) -> dict[str, Any]:
    """One image as page.js knows it; labels are mask values, `cams` too."""
    entry, (height, width) = pictures.entry, pictures.mask.shape
    first_class = int(pictures.has_background)
    return {
        "index": index,
        "id": entry.id,
        "kept": _rounded(entry.kept),
        "iou": _rounded(entry.iou),
        "labels": [(label, _rounded(iou)) for label, iou in entry.labels],
        "mask": [int(label) for label in np.unique(pictures.mask) if label != IGNORE_INDEX],
        "cams": [int(key) + first_class for key in pictures.keys],
        "truth": pictures.truth is not None,
        "width": width,
        "height": height,
        "problem": "; ".join(pictures.problems),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def draw(job: ReportJob, entries: Sequence[Entry], spool: Spool, threads: int) -> Iterator[Outcome]:
    """Put the pictures of the entries into the spool, in order; one outcome an image, failed if any is missing."""
    size = tile_size(len(entries))
    for entry, drawn in ordered_map(lambda entry: (entry, _drawn(job, entry, size)), entries, threads):
        if isinstance(drawn, str):
            yield Outcome(entry.id, "failed", drawn)
            continue
        pictures, tiles = drawn
        spool.add(pictures, tiles)
        yield Outcome(entry.id, "failed" if pictures.problems else "made", "; ".join(pictures.problems))


def _drawn(job: ReportJob, entry: Entry, size: int) -> tuple[Pictures, list[bytes]] | str:
    try:
        pictures = pictures_of(job, entry)
    except UserError as error:
        return str(error)
    return pictures, tiles_of(pictures, job.spec, size)
