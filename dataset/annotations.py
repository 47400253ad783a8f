"""Masks and image-level labels from annotation files. Errors in a file are UserErrors that name it."""

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from scipy.io import loadmat  # type: ignore[import-untyped]

from common.errors import UserError
from common.outcome import Outcome
from common.parallel import ordered_map
from common.provenance import SOURCE, record_text, source_of
from dataset.ids import split_id
from dataset.mask_png import mask_made_by, read_mask, write_mask
from dataset.spec import IGNORE_INDEX, RawData, RawForm
from dataset.text_files import files_below, read_bytes

MAX_BYTES = 64 << 20  # of a .mat file, and of what it becomes; PASCAL-Context's become less than 1 MiB


def find_files(raw: RawData, folder: Path) -> tuple[RawForm, dict[str, Path]]:
    """The form of the annotations in a folder, and their files by the id of their image, in the order of the ids.

    Raises UserError when there are none, or some of several forms.
    """
    forms = [(form, files) for form in raw.forms if (files := _files(form, folder))]
    if not forms:
        names = " or ".join(f"*{form.ending}" for form in raw.forms)
        raise UserError(f"--raw {folder}: no file {names} in it; expected {raw.holds}")
    if len(forms) > 1:
        both = " and ".join(f"{len(files)} *{form.ending}" for form, files in forms)
        raise UserError(f"--raw {folder}: {both} in it; leave one kind, as their ids would be the same")
    return forms[0]


def _files(form: RawForm, folder: Path) -> dict[str, Path]:
    paths = files_below(folder, form.ending) if form.nested else sorted(folder.glob(f"*{form.ending}"))
    paths = [path for path in paths if not path.name.startswith(".") and not path.name.endswith(form.beside)]
    keys = [path.relative_to(folder).as_posix().removesuffix(form.ending) + form.image_ending for path in paths]
    return dict(zip((split_id(key, folder) for key in keys), paths))


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
    unknown = sorted(set(np.unique(raw).tolist()) - set(form.values))
    if unknown:
        raise UserError(f"{path}: holds the value {unknown[0]}, which this data set does not have; is it another's?")
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


@dataclass(frozen=True)
class MaskJob:
    """How the masks of a data set are made.

    name        the data set, which masks record
    read        makes the mask of an id, (H, W) uint8; raises UserError where it cannot
    out         folder of the masks, or None to write none
    overwrite   replace existing masks
    keep_any    keep existing masks that this command did not make
    files       by id, the annotation file: a mask is made again when its file was replaced
    option      that names the folder, for messages
    skip_empty  a mask of 255 alone is not written
    """

    name: str
    read: Callable[[str], np.ndarray]
    out: Path | None
    overwrite: bool = False
    keep_any: bool = False
    files: Mapping[str, Path] = field(default_factory=dict)
    option: str = "--masks_out"
    skip_empty: bool = False

    def record(self, image_id: str) -> dict[str, str]:
        """The record of a mask that is written."""
        source = {SOURCE: source_of(self.files[image_id])} if image_id in self.files else {}
        return {"prepared": self.name, **source}


def prepare(job: MaskJob, ids: Iterable[str], threads: int = 2) -> Iterator[tuple[Outcome, tuple[int, ...]]]:
    """Write the missing masks; yields for each id the outcome, and the values in its mask without 255.

    Raises UserError when an existing mask was not made by this command for this data set.
    """
    yield from ordered_map(partial(_prepared, job), ids, threads)


def _prepared(job: MaskJob, image_id: str) -> tuple[Outcome, tuple[int, ...]]:
    target = job.out / f"{image_id}.png" if job.out else None
    mask, made_by = None, ""
    if target is not None and not job.overwrite and target.is_file():
        with suppress(UserError):  # a damaged mask is made again
            made_by, mask = mask_made_by(target), read_mask(target)
    if mask is not None and not job.keep_any and f'"prepared": "{job.name}"' not in made_by:
        raise UserError(f"{target}: not made here for {job.name}; pass another {job.option}, or --overwrite")
    try:
        record = record_text(job.record(image_id))
        if mask is not None and (job.keep_any or made_by == record):
            outcome = Outcome(image_id, "kept")
        else:
            outcome, mask = Outcome(image_id, "made"), job.read(image_id)
            if target is not None and job.skip_empty and (mask == IGNORE_INDEX).all():
                target.unlink(missing_ok=True)  # of an annotation that was replaced
                outcome = Outcome(image_id, "kept")
            elif target is not None:
                write_mask(target, mask, made_by=record)
    except UserError as error:
        return Outcome(image_id, "failed", str(error)), ()
    return outcome, tuple(value for value in np.unique(mask).tolist() if value != IGNORE_INDEX)
