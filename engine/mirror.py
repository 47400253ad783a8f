"""What the process that starts a Ray run sees in place of addresses.

Folders of images and masks become folders of empty files with the same names: enough to choose ids, to match labels
and to find missing results, with code that knows paths only. Small files (lists, labels, classes, annotations) and the
model are copied. The files that a stage writes beside its results (run.json, ...) are copied before the run and back
after it.
"""

import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError
from engine.remote import Address, Mirror, fetch, is_there, list_files, put, remove

RESULTS = ("cam_out_dir", "pseudo_mask_save_path")  # options for the folders of results
SMALL = ("split_file", "classes", "labels", "model", "pretrained")  # options whose files are copied before the run
NOTES = ("run.json", "failures.jsonl", "tags.txt")  # files that a stage writes beside its results
SAMPLES = 8  # CAM files that are read before the run


@contextmanager
def mirrored(
    addresses: Mapping[str, Address], output: str, beside: Collection[str] = ()
) -> Iterator[tuple[Mirror, dict[str, Path]]]:
    """Yield the mirror of the addresses, and the path in it of each option.

    addresses  by option
    output     the option for the folder of the results
    beside     folders of VOC's layout that are needed beside the images: ImageSets, Annotations, SegmentationClass
    Raises UserError for an address with nothing there, and for an option that takes none.
    """
    with tempfile.TemporaryDirectory(prefix="clip-pseudo-masks-") as folder:
        mirror = Mirror(Path(folder).resolve())
        for option, address in addresses.items():
            if option in RESULTS:
                mirror.path(address).mkdir(parents=True, exist_ok=True)
                if option != output:  # some CAM files, for the check of their classes
                    names = [name for name in list_files(address)[0] if name.endswith(".npz")]
                    if not names:
                        raise UserError(f"--{option} {address}: no CAM files there; expected generate_cams.py's output")
                    _fetch([f"{address}/{name}" for name in names[:SAMPLES]], mirror)
            elif option == "img_root":
                _mirror_images(address, beside, mirror)
            elif option == "gt_root":
                _make_empty_files(address, mirror)
            elif option in SMALL:
                _fetch([address], mirror)
                if option == "labels" and not mirror.path(address).exists():  # a folder of VOC annotations
                    _fetch([f"{address}/{name}" for name in list_files(address)[0]], mirror)
                if not mirror.path(address).exists():
                    raise UserError(f"--{option} {address}: nothing there")
            else:
                raise UserError(f"--{option} {address}: an address; give a path of this machine")
        notes = [f"{addresses[output]}/{name}" for name in NOTES] if output in addresses else []
        fetch(notes, mirror)
        try:
            yield mirror, {option: mirror.path(address) for option, address in addresses.items()}
        finally:
            put([note for note in notes if mirror.path(note).is_file()], mirror)
            for note in notes:
                if not mirror.path(note).is_file() and is_there(note):
                    remove(note)


def _mirror_images(address: str, beside: Collection[str], mirror: Mirror) -> None:
    """Mirror the images, given by their folder or by the one above it, and the folders beside them."""
    names = _make_empty_files(address, mirror)
    if not names:
        raise UserError(f"--img_root {address}: nothing there; expected images")
    root = address if any(name.startswith("JPEGImages/") for name in names) else address.rpartition("/")[0]
    for folder in beside:
        if folder == "SegmentationClass":
            _make_empty_files(f"{root}/{folder}", mirror)
        else:
            _fetch([f"{root}/{folder}/{name}" for name in list_files(f"{root}/{folder}")[0]], mirror)


def _make_empty_files(address: str, mirror: Mirror) -> list[str]:
    """Make an empty file for every file below an address; returns the names."""
    names, bad_names = list_files(address)
    for name in names:
        target = mirror.path(f"{address}/{name}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        except OSError:  # `a.jpg` beside `a.jpg/b.jpg`, or a name that is too long
            bad_names.append(name)
    if bad_names:
        reason = f"names below {address} that no file can have, such as {bad_names[0]!a}"
        print(f"left out: {len(bad_names)} {reason}", file=sys.stderr)
    return names


def _fetch(addresses: list[str], mirror: Mirror) -> None:
    for error in fetch(addresses, mirror).values():
        raise UserError(error)
