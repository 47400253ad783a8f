"""What every export format shares: images with masks are checked, put in their places, and handed to the format.

An exporter describes its layout in one file; exports/table.py names them all.
"""

import filecmp
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import cannot_write, check_output, write_text
from common.images import image_size, opened
from common.provenance import check_source
from dataset.mask_png import is_made_here, mask_confidence, read_mask, write_mask
from dataset.mask_values import MaskValues
from dataset.spec import IGNORE_INDEX
from pipeline.stages.evaluate import mask_record

TRAIN, VALIDATION = "train", "val"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")  # that other tools know

Item = tuple[str, Path, Path]  # id, image, mask


@dataclass(frozen=True)
class Job:
    """What is to be written.

    out             the output folder
    labels          names by mask value
    has_background  mask value 0 is the background, else it is the first class
    validated       there is a validation part
    copy            copy files; otherwise they are relative links
    polygons        outlines in place of exact masks, where a format holds both
    ignored         the class that the pixels of 255 become; "": they stay 255, or are left without a label
    numbers         by mask value, the numbers of the classes in the data set's own files, where these differ
    written         paths below `out` of what was written
    values          what the values of masks stand for that this project did not write; None: they are mask values
    """

    out: Path
    labels: tuple[str, ...]
    has_background: bool = True
    validated: bool = False
    copy: bool = False
    polygons: bool = False
    ignored: str = ""
    numbers: Mapping[int, int] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    values: MaskValues | None = None

    @property
    def classes(self) -> dict[int, str]:
        """Names by mask value, without the background."""
        return {value: name for value, name in enumerate(self.labels) if value or not self.has_background}

    @property
    def parts(self) -> tuple[str, ...]:
        return (TRAIN, VALIDATION) if self.validated else (TRAIN,)

    def path(self, place: str) -> Path:
        """The path of a file below `out` that is to be written; raises UserError where a link leads elsewhere."""
        path = check_output(self.out / place, self.out)
        self.written.add(place)
        return path

    def strangers(self) -> list[str]:
        """Files in the folders of what was written that were not written now, below `out`."""
        folders = {str(Path(place).parent) for place in self.written} - {"."}
        entries = {f"{folder}/{path.name}": path for folder in folders for path in (self.out / folder).iterdir()}
        found = {place for place, path in entries.items() if not path.is_dir() and path.suffix != ".cache"}
        return sorted(found - self.written)

    def place_image(self, example: "Example", folder: str, suffix: str = "") -> str:
        """Put an image in a folder below `out`; returns its path below `out`.

        suffix  of its name, whatever the image is; not given: its own
        """
        place = f"{folder}/{example.name}{suffix or example.suffix}"
        _put(example.image, self.path(place), self.copy)
        return place

    def place_mask(self, example: "Example", folder: str) -> str:
        """Put a mask of mode L in a folder below `out`, as it is or written anew; returns its path below `out`."""
        place = f"{folder}/{example.name}.png"
        target = self.path(place)
        if example.as_it_is:
            _put(example.mask, target, self.copy)
        else:
            write_mask(target, example.labels)
        return place


@dataclass(frozen=True)
class Example:
    """One image with its mask.

    name        the id as the format can hold it
    part        TRAIN or VALIDATION
    labels      (H, W) uint8 mask values, and 255
    confidence  the mean confidence by mask value; empty where the mask does not tell
    as_it_is    the mask's file holds just these labels, in mode L
    palette     its file is a palette PNG
    """

    id: str
    name: str
    part: str
    image: Path
    mask: Path
    labels: np.ndarray
    confidence: Mapping[int, float]
    as_it_is: bool
    palette: bool = False

    @property
    def suffix(self) -> str:
        """Of the image's file; `.jpg` for those that other tools do not know: they look into the file."""
        own = self.image.suffix.lower()
        return own if own in SUFFIXES else ".jpg"


Add = Callable[[Example], None]


@dataclass(frozen=True)
class Format:
    """How a tool wants images and masks.

    writing    a context: gets the job, yields the function that takes one example after the other, and writes at its
               end what tells the tool of them all
    main       the file or folder below the output that is given to the tool
    name       an id as the tool can hold it
    options    of the command, that the format takes and others do not
    shared     what lies in one folder for both parts: "images", "masks" (and images), or nothing
    keeps_255  pixels of 255 are told from the background
    links      the tool follows links out of the folder; otherwise files are copied
    listed     the tool reads what files name; otherwise it takes whatever it finds in the folders
    """

    writing: Callable[[Job], AbstractContextManager[Add]]
    main: str
    name: Callable[[str], str] = str
    options: frozenset[str] = frozenset()
    shared: str = ""
    keeps_255: bool = True
    links: bool = True
    listed: bool = True


@dataclass
class Exported:
    """What was written: pairs by part, and (id, reason) of what was left out.

    palettes   number of masks that were palette PNGs
    unsure     number of masks with pixels of 255
    strangers  files in the folders that were there before, and that the tool will take for part of the data
    """

    pairs: Counter[str] = field(default_factory=Counter)
    palettes: int = 0
    unsure: int = 0
    strangers: list[str] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)


def export(form: Format, job: Job, items: Mapping[str, Sequence[Item]]) -> Exported:
    """Write all parts of the data, by name; the format's context writes the rest.

    Raises UserError when nothing at all of a part could be exported.
    """
    done = Exported()
    job = replace(job, copy=job.copy or not form.links)
    if job.ignored:
        job = replace(job, labels=(*job.labels, job.ignored))
    with form.writing(job) as add:
        taken: dict[str, tuple[str, Item]] = {}  # part and item by name
        for part, pairs in items.items():
            taken = taken if form.shared else {}
            for item in pairs:
                try:
                    example = _example(form, job, part, item)
                    _check_name(form, example, item, taken)
                    add(example)
                except UserError as error:
                    done.failures.append((item[0], str(error)))
                    continue
                taken[example.name] = part, item
                done.pairs[part] += 1
                done.palettes += example.palette
                done.unsure += bool((example.labels == IGNORE_INDEX).any())
            if not done.pairs[part]:
                raise UserError(
                    f"nothing to export: {done.failures[0][1] if done.failures else 'no image in the split'}"
                )
    done.strangers = [] if form.listed else job.strangers()
    return done


def _check_name(form: Format, example: Example, item: Item, taken: Mapping[str, tuple[str, Item]]) -> None:
    """Raise UserError for a name under which something else was written."""
    part, (image_id, image, _) = taken.get(example.name, ("", item))
    if part == example.part or (part and form.shared == "masks") or image != item[1]:
        raise UserError(f"{example.id}: {image_id} of {part} is written under the same name; rename one of them")


def _example(form: Format, job: Job, part: str, item: Item) -> Example:
    """The image and its labels, which were found to go together."""
    image_id, image, mask = item
    with opened(mask, ("PNG",), "mask") as picture:
        mode = picture.mode
    labels = read_mask(mask, job.values)
    if image_size(image) != labels.shape:
        raise UserError(f"{mask}: size {labels.shape} for an image of {image_size(image)}; made from other images?")
    check_source(mask, mask_record(mask), image)
    known = len(job.labels) - bool(job.ignored)
    if (unknown := np.unique(labels[(labels >= known) & (labels != IGNORE_INDEX)])).size:
        expected = f"expected 0 to {known - 1}, and 255"
        raise UserError(f"{mask}: holds label {unknown[0]}; {expected}; masks of other classes?")
    if job.ignored:
        labels[labels == IGNORE_INDEX] = known
    as_it_is = mode == "L" and not job.ignored and (job.values is None or is_made_here(mask))
    confidence = mask_confidence(mask)
    return Example(image_id, form.name(image_id), part, image, mask, labels, confidence, as_it_is, mode == "P")


def flat(image_id: str) -> str:
    """An id as the name of a file, for tools that do not look into folders."""
    return image_id.replace("/", "__")


def _put(source: Path, place: Path, copy: bool) -> None:
    """Copy or link a file. Raises UserError where another picture lies that is neither a link nor made here."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_file() and not place.is_symlink():
            if filecmp.cmp(source, place, shallow=False):
                return
            if not is_made_here(place):
                raise UserError(f"{place}: not written, another file lies there; choose another folder, or remove it")
        place.unlink(missing_ok=True)
        if copy:
            shutil.copyfile(source, place)
        else:
            place.symlink_to(os.path.relpath(source.resolve(), place.parent.resolve()))
    except OSError as error:
        raise cannot_write(place, error) from error


@dataclass(frozen=True)
class Part:
    """Where one part of the data goes, TRAIN or VALIDATION; paths below the folder that is written."""

    images: str
    masks: str
    list: str


def listed(
    parts: Mapping[str, Part], line: Callable[[Part, str], str], configure: Callable[[Job], None]
) -> Callable[[Job], AbstractContextManager[Add]]:
    """The `writing` of formats that have a list of names for each part beside images and masks.

    Images become `<name>.jpg` whatever they are: trainers look into a file, not at its suffix. Masks of mode P are
    written anew in mode L, since readers that turn colours into grey (cv2.IMREAD_GRAYSCALE) would get wrong labels.

    line       a line of the lists, from a part and a name
    configure  writes what tells the trainer of the data
    """

    @contextmanager
    def writing(job: Job) -> Iterator[Add]:
        names: dict[str, list[str]] = {part: [] for part in job.parts}

        def add(example: Example) -> None:
            place = parts[example.part]
            job.place_image(example, place.images, ".jpg")
            job.place_mask(example, place.masks)
            names[example.part].append(example.name)

        yield add
        for part, found in names.items():
            write_text(job.path(parts[part].list), "".join(map("{}\n".format, map(partial(line, parts[part]), found))))
        configure(job)

    return writing
