"""Annotation files as masks and image-level labels. Whatever is wrong with a file ends in a UserError that names it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.outcome import Outcome
from common.parallel import ordered_map
from dataset.ids import plain_id
from dataset.mask_png import mask_made_by, read_mask, write_mask
from dataset.mat_file import matrix
from dataset.raw import RawData, RawForm
from dataset.spec import IGNORE_INDEX
from dataset.text_files import read_bytes, shown
from dataset.walk import files_below

MAX_BYTES = 64 << 20  # of a .mat file, and of what it becomes; PASCAL-Context's become less than 1 MiB


# --- which files there are -------------------------------------------------------------------------


def find_files(raw: RawData, folder: Path) -> tuple[RawForm, dict[str, Path]]:
    """The form of the annotations in a folder, and their files by the id of their image, in the order of the ids.

    Raises UserError when there are none, or some of several forms.
    """
    found = [(form, files) for form in raw.forms if (files := _files(form, folder))]
    if not found:
        names = " or ".join(f"*{form.ending}" for form in raw.forms)
        raise UserError(f"--raw {folder}: no file {names} in it; expected {raw.holds}")
    if len(found) > 1:
        both = " and ".join(f"{len(files)} *{form.ending}" for form, files in found)
        raise UserError(f"--raw {folder}: {both} in it; leave one kind, as their ids would be the same")
    return found[0]


def _files(form: RawForm, folder: Path) -> dict[str, Path]:
    paths = files_below(folder, form.ending) if form.nested else sorted(folder.glob(f"*{form.ending}"))
    return {
        _id_of(form, folder, path): path
        for path in paths
        if not path.name.startswith(".") and not path.name.endswith(form.beside)
    }


def _id_of(form: RawForm, folder: Path, path: Path) -> str:
    """The id of the image that a file annotates; raises UserError for one that would be no line of a split file."""
    key = path.relative_to(folder).as_posix().removesuffix(form.ending) + form.image_ending
    if len(key.split()) != 1:
        raise UserError(f"{folder}: file name {shown(path.name)} holds spaces, which split files cannot; rename it")
    return plain_id(key, folder)


# --- what is in them -------------------------------------------------------------------------------


def read_annotation(form: RawForm, path: Path) -> np.ndarray:
    """(H, W) uint8: the class index of each pixel, or 255.

    Raises UserError, naming the file, when it is damaged or holds a value that the data set does not have.
    """
    raw = _read_matrix(form.variable, path) if form.variable else read_mask(path)
    strange = sorted(set(np.unique(raw).tolist()) - set(form.values))
    if strange:
        raise UserError(f"{path}: holds the value {strange[0]}, which this data set does not have; is it another's?")
    table = np.full(max(form.values) + 1, IGNORE_INDEX, np.uint8)
    table[list(form.values)] = list(form.values.values())
    return table[raw]


def _read_matrix(variable: str, path: Path) -> np.ndarray:
    """(H, W) int64 of a MATLAB file, whose whole numbers may be stored as floats."""
    data = read_bytes(path, "an annotation", MAX_BYTES)
    try:
        numbers = matrix(data, variable, MAX_BYTES)
    except ValueError as error:
        raise UserError(f"{path}: not a readable .mat file with {variable} ({error}); unpack it again") from error
    if numbers.ndim != 2 or not numbers.size or (numbers != numbers.round().clip(0, 1 << 16)).any():
        raise UserError(f"{path}: {variable} is no matrix of labels; is it another data set's?")
    return numbers.astype(np.int64)


# --- the loop --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaskJob:
    """Everything that is the same for all annotations of a run.

    files  by id
    out    folder of the masks, or None to write none
    """

    name: str
    form: RawForm
    files: Mapping[str, Path]
    out: Path | None
    overwrite: bool = False

    @property
    def record(self) -> str:
        """What a mask that is written says of how it was made."""
        return json.dumps({"prepared": self.name})


def prepare(
    job: MaskJob, ids: Sequence[str], labels: dict[str, tuple[int, ...]], threads: int = 2
) -> Iterator[Outcome]:
    """Write the masks that are missing, and enter the classes that each image shows in `labels`; one outcome an id.

    Raises UserError when a mask that is there was not made by this command for this data set.
    """
    for outcome, classes in ordered_map(partial(_prepared, job), ids, threads):
        if outcome.status != "failed":
            labels[outcome.id] = classes
        yield outcome


def _prepared(job: MaskJob, image_id: str) -> tuple[Outcome, tuple[int, ...]]:
    kept = _mask_there(job, image_id)
    try:
        mask = _new_mask(job, image_id) if kept is None else kept
    except UserError as error:
        return Outcome(image_id, "failed", str(error)), ()
    classes = tuple(value for value in np.unique(mask).tolist() if value != IGNORE_INDEX)
    return Outcome(image_id, "made" if kept is None else "kept"), classes


def _mask_there(job: MaskJob, image_id: str) -> np.ndarray | None:
    """The mask of an earlier run; None when there is none, or a damaged one, which is made again."""
    target = job.out / f"{image_id}.png" if job.out else None
    if target is None or job.overwrite or not target.is_file():
        return None
    try:
        record, mask = mask_made_by(target), read_mask(target)
    except UserError:
        return None
    if record != job.record:
        raise UserError(f"{target}: not made here for {job.name}; pass another --masks_out, or --overwrite")
    return mask


def _new_mask(job: MaskJob, image_id: str) -> np.ndarray:
    if image_id not in job.files:
        raise UserError(f"no annotation {image_id}{job.form.ending} in --raw; it is in the split")
    mask = read_annotation(job.form, job.files[image_id])
    if job.out is not None:
        write_mask(job.out / f"{image_id}.png", mask, made_by=job.record)
    return mask
