"""The gallery of the report page: small pictures of every image that is shown, as text that travels inside the page.

A tile is one small WebP file: photos lossy, labels without loss. The heat of a CAM is stored alone, at about the size
of the patch grid it came from, and the page lays it over the photo; that makes one map a class affordable.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import cv2
import numpy as np
from PIL import Image

from common.errors import UserError
from common.images import read_image
from common.outcome import Outcome
from common.parallel import ordered_map
from dataset.mask_png import read_mask
from dataset.spec import IGNORE_INDEX, DatasetSpec
from dataset.voc_layout import find_image
from pipeline.files.cam_file import load_cams, read_groups
from pipeline.stages.evaluate import check_shape
from report.measure import Entry, ReportJob, truth_of
from report.pictures import colour_labels, difference, heat_colours

MOST_CAMS = 6  # maps shown of one image, the strongest ones
# (images at most, longer side in pixels); why, see `tile_size`
SIZES = ((300, 256), (1_500, 192), (4_000, 160), (10_000, 112), (20_000, 96))
SMALLEST = 64
HEAT_SIZE = 32
PHOTO_QUALITY, HEAT_QUALITY = 60, 70


@dataclass(frozen=True)
class Pictures:
    """What can be seen of one image; None for what is not there.

    photo       (H, W, 3) uint8 RGB
    keys, maps  (k,) classes and (k, H, W) maps in [0, 1], at most MOST_CAMS, strongest first
    groups      (h, w) uint8, the group of each place, where the CAM file keeps them
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
    groups: np.ndarray | None = None


def pictures_of(job: ReportJob, entry: Entry) -> Pictures:
    """Read one image's pictures. A missing photo or CAM file costs that picture; a missing mask is a UserError."""
    mask = read_mask(job.masks / f"{entry.id}.png")
    problems: list[str] = []
    photo: np.ndarray | None = None
    keys: np.ndarray = np.empty(0, np.int64)
    maps: np.ndarray = np.empty((0, *mask.shape), np.float32)
    groups: np.ndarray | None = None
    try:
        path = find_image(job.images, entry.id)
        photo = np.asarray(read_image(path))
        if photo.shape[:2] != mask.shape:
            size, photo = photo.shape[:2], None
            raise UserError(f"{path}: size {size} where its mask has {mask.shape}; made from other images?")
    except UserError as error:
        problems.append(str(error))
    try:
        path = job.cams / f"{entry.id}.npz"
        all_keys, all_maps = load_cams(path, job.cam_type, len(job.spec.classes))
        check_shape(path, all_maps.shape[1:], mask)
        strongest = np.argsort(-all_maps.mean(axis=(1, 2)), kind="stable")[:MOST_CAMS]
        keys, maps, groups = all_keys[strongest], all_maps[strongest], read_groups(path)
    except UserError as error:
        problems.append(str(error))
    truth = truth_of(job, entry.id)
    return Pictures(entry, photo, keys, maps, mask, truth, job.spec.has_background, tuple(problems), groups)


def tile_size(count: int) -> int:
    """The longer side of a photo tile in a gallery of `count` images, so that the page stays below about 60 MB.

    Measured on VOC photos with two CAMs, base64 included: 256 px cost 15 KB an image, 192 px 10, 160 px 8,
    112 px 5.4, 96 px 4.7, 64 px 3.1.
    """
    return next((size for most, size in SIZES if count <= most), SMALLEST)


def tiles_of(pictures: Pictures, spec: DatasetSpec, size: int) -> list[bytes]:
    """Photo, mask, truth, difference, one heat a CAM and, where they are kept, groups as WebP files; empty bytes for
    what is not there."""
    photo, mask, truth = pictures.photo, pictures.mask, pictures.truth
    groups = [] if pictures.groups is None else [_shrunk(pictures.groups + np.uint8(1), size, exact=True)]
    labels = [colour_labels(_shrunk(mask, size, exact=True))]
    if truth is not None:
        wrong = difference(mask, truth, spec.num_labels, spec.has_background)
        labels += [colour_labels(_shrunk(truth, size, exact=True)), _shrunk(wrong, size, exact=True)]
    return [
        b"" if photo is None else webp(_shrunk(photo, size), quality=PHOTO_QUALITY),
        *(webp(picture, lossless=True) for picture in labels),
        *([b"", b""] if truth is None else []),
        *(webp(heat_colours(_shrunk(heat, HEAT_SIZE)), quality=HEAT_QUALITY) for heat in pictures.maps),
        *(webp(colour_labels(one), lossless=True) for one in groups),
    ]


def _shrunk(image: np.ndarray, size: int, exact: bool = False) -> np.ndarray:
    """The image with its longer side at most `size`; `exact` picks values (labels) instead of averaging them."""
    height, width = image.shape[:2]
    scale = min(1.0, size / max(height, width))
    target = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, target, interpolation=cv2.INTER_NEAREST_EXACT if exact else cv2.INTER_AREA)


def webp(rgb: np.ndarray, **options: Any) -> bytes:
    """(H, W, 3) uint8 as a WebP file."""
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "WEBP", method=4, **options)
    return stream.getvalue()


@dataclass
class Spool:
    """The tiles in a file, one `<script>` element an image, and what the page says of each image.

    stream   a temporary file, so that memory does not grow with the number of images
    records  for page.js, one an image; labels are mask values, `cams` too
    """

    stream: IO[bytes]
    records: list[dict[str, Any]] = field(default_factory=list)

    def add(self, pictures: Pictures, tiles: list[bytes]) -> None:
        """Append an image. Its tiles are base64 with a space between, `-` for an empty one: nothing that HTML reads."""
        index, text = len(self.records), b" ".join(base64.b64encode(tile) or b"-" for tile in tiles)
        self.stream.write(b'<script type="text/plain" id="tiles-%d">%s</script>\n' % (index, text))
        entry, (height, width) = pictures.entry, pictures.mask.shape
        self.records.append(
            {
                "index": index,
                "id": entry.id,
                "kept": round(entry.kept, 6),
                "iou": _rounded(entry.iou),
                "labels": [(label, _rounded(iou)) for label, iou in entry.labels],
                "mask": [int(label) for label in np.unique(pictures.mask) if label != IGNORE_INDEX],
                "cams": [int(key) + int(pictures.has_background) for key in pictures.keys],
                "truth": pictures.truth is not None,
                "groups": pictures.groups is not None,
                "width": width,
                "height": height,
                "problem": "; ".join(pictures.problems),
            }
        )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def draw(job: ReportJob, entries: Sequence[Entry], spool: Spool, threads: int) -> Iterator[Outcome]:
    """Put the pictures of the entries into the spool, in order; one outcome an image, failed if any is missing."""
    size = tile_size(len(entries))

    def drawn(entry: Entry) -> tuple[Pictures, list[bytes]] | str:
        try:
            pictures = pictures_of(job, entry)
        except UserError as error:
            return str(error)
        return pictures, tiles_of(pictures, job.spec, size)

    for entry, result in zip(entries, ordered_map(drawn, entries, threads)):
        if isinstance(result, str):
            yield Outcome(entry.id, "failed", result)
            continue
        pictures, tiles = result
        spool.add(pictures, tiles)
        yield Outcome(entry.id, "failed" if pictures.problems else "made", "; ".join(pictures.problems))
