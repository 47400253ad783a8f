"""Annotation files as masks and image-level labels. Whatever is wrong with a file ends in a UserError that names it."""

import json
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from scipy.io import loadmat  # type: ignore[import-untyped]

from common.errors import UserError
from common.outcome import Outcome
from common.parallel import ordered_map
from dataset.ids import split_id
from dataset.mask_png import mask_made_by, read_mask, write_mask
from dataset.spec import IGNORE_INDEX, RawData, RawForm
from dataset.text_files import files_below, read_bytes

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
    named = [path for path in paths if not path.name.startswith(".") and not path.name.endswith(form.beside)]
    keys = [path.relative_to(folder).as_posix().removesuffix(form.ending) + form.image_ending for path in named]
    return dict(zip((split_id(key, folder) for key in keys), named))


# --- what is in them -------------------------------------------------------------------------------


def annotation_of(form: RawForm, files: Mapping[str, Path], image_id: str) -> np.ndarray:
    """The annotation of an id, see `read_annotation`; raises UserError when there is none."""
    if image_id not in files:
        raise UserError(f"no annotation {image_id}{form.ending} in --raw; it is in the split")
    return read_annotation(form, files[image_id])


def read_annotation(form: RawForm, path: Path) -> np.ndarray:
    """(H, W) uint8: the class index of each pixel, or 255.

    Raises UserError, naming the file, when it is damaged or holds a value that the data set does not have.
    """
    raw = read_matrix(path, form.variable) if form.variable else read_mask(path)
    strange = sorted(set(np.unique(raw).tolist()) - set(form.values))
    if strange:
        raise UserError(f"{path}: holds the value {strange[0]}, which this data set does not have; is it another's?")
    table = np.full(max(form.values) + 1, IGNORE_INDEX, np.uint8)
    table[list(form.values)] = list(form.values.values())
    return table[raw]


def read_matrix(path: Path, variable: str) -> np.ndarray:
    """(H, W) int64: a matrix of whole numbers in a MATLAB 5 file, which may be stored as floats.

    variable  its name, or `struct.field` for a field of a struct (of its first element, where it is an array)
    Raises UserError, naming the file, when it is damaged or holds something else.
    """
    data, (name, *fields) = read_bytes(path, "an annotation", MAX_BYTES), variable.split(".")
    try:
        _check_compressed(data)
        value = loadmat(BytesIO(data), variable_names=[name])[name]
        for field in fields:
            value = value[field].flat[0]
    except KeyError as error:
        raise UserError(
            f"{path}: not a readable .mat file with {variable} (no {name} in it); is it another's?"
        ) from error
    except Exception as error:  # scipy checks little, and raises whatever numpy, zlib or struct raise
        raise UserError(f"{path}: not a readable .mat file with {variable}; unpack it again") from error
    numbers = isinstance(value, np.ndarray) and value.ndim == 2 and value.size and value.dtype.kind in "biuf"
    if not numbers or value.nbytes > MAX_BYTES or (value != value.round().clip(0, 1 << 16)).any():
        raise UserError(f"{path}: {variable} is no matrix of labels; is it another data set's?")
    return value.astype(np.int64)


def _check_compressed(data: bytes) -> None:
    """Raise for compressed variables of a MATLAB 5 file that are damaged or larger than MAX_BYTES.

    scipy compares no checksums, and may crash on the bytes that damage makes.
    """
    at = 128  # behind the header lie elements: type, size, content; type 15 is compressed
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, at)
        stream = zlib.decompressobj()
        if kind == 15:
            stream.decompress(data[at + 8 : at + 8 + size], MAX_BYTES)
            if not stream.eof:
                raise ValueError("cut short, or too large")
        at += 8 + size


# --- the loop --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaskJob:
    """Masks to be made, and everything that is the same for all of them.

    name        the data set, which masks record
    read        (H, W) uint8 of an id; raises UserError where it cannot be made
    out         folder of the masks, or None to write none
    overwrite   whether masks that are there are made again
    keep_any    whether masks that are there are kept even if this command did not make them
    """

    name: str
    read: Callable[[str], np.ndarray]
    out: Path | None
    overwrite: bool = False
    keep_any: bool = False

    @property
    def record(self) -> str:
        """What a mask that is written says of how it was made."""
        return json.dumps({"prepared": self.name})


def prepare(job: MaskJob, ids: Iterable[str], threads: int = 2) -> Iterator[tuple[Outcome, tuple[int, ...]]]:
    """Write the masks that are missing; one outcome an id, and the mask values that its mask holds but for 255.

    Raises UserError when a mask that is there was not made by this command for this data set.
    """
    yield from ordered_map(partial(_prepared, job), ids, threads)


def _prepared(job: MaskJob, image_id: str) -> tuple[Outcome, tuple[int, ...]]:
    target = job.out / f"{image_id}.png" if job.out else None
    mask = None if target is None or job.overwrite else _kept(job, target)
    outcome = Outcome(image_id, "made" if mask is None else "kept")
    try:
        if mask is None:
            mask = job.read(image_id)
            if target is not None:
                write_mask(target, mask, made_by=job.record)
    except UserError as error:
        return Outcome(image_id, "failed", str(error)), ()
    return outcome, tuple(value for value in np.unique(mask).tolist() if value != IGNORE_INDEX)


def _kept(job: MaskJob, target: Path) -> np.ndarray | None:
    """The mask of an earlier run; None when there is none, or a damaged one, which is made again."""
    if not target.is_file():
        return None
    try:
        record, mask = mask_made_by(target), read_mask(target)
    except UserError:
        return None
    if record != job.record and not job.keep_any:
        raise UserError(f"{target}: not made here for {job.name}; pass another --masks_out, or --overwrite")
    return mask
