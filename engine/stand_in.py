"""What the process that starts a Ray run sees in place of addresses.

Folders of images and masks become folders of empty files with the same names: enough to choose ids, to match labels
and to tell what is missing, with the code that knows paths only. Small files (lists, labels, classes, annotations)
and the model are fetched. What a stage writes beside its results (run.json, failures.jsonl) is fetched before and put
back after.
"""

import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError
from engine.remote import Address, StandIn, below, fetch, is_there, put, remove

RESULTS = ("cam_out_dir", "pseudo_mask_save_path")  # options that say where a stage's results go
SMALL = ("split_file", "classes", "labels", "model", "pretrained")  # options that are fetched before the run
NOTES = ("run.json", "failures.jsonl", "tags.txt")  # what a stage writes beside its results
SOME = 8  # CAM files that are looked at before the run


@contextmanager
def standing_in(
    given: Mapping[str, Address], output: str, beside: Collection[str] = ()
) -> Iterator[tuple[StandIn, dict[str, Path]]]:
    """The folder that stands in for addresses, and the path in it of each option that was given one.

    given   addresses by the names of their options
    output  the option that says where the results go
    beside  folders of VOC's layout that are needed beside the images: ImageSets, Annotations, SegmentationClass
    Raises UserError for an address with nothing there, and for an option that takes none.
    """
    with tempfile.TemporaryDirectory(prefix="clip-pseudo-masks-") as folder:
        here = StandIn(Path(folder).resolve())
        for name, address in given.items():
            if name in RESULTS:
                here.path(address).mkdir(parents=True, exist_ok=True)
                if name != output:
                    _some(name, address, here)
            elif name == "img_root":
                _images(address, beside, here)
            elif name == "gt_root":
                _placeholders(address, here)
            elif name in SMALL:
                _small(name, address, here)
            else:
                raise UserError(f"--{name} {address}: an address; give a path of this machine")
        with _notes(given.get(output), here):
            yield here, {name: here.path(address) for name, address in given.items()}


@contextmanager
def _notes(address: str | None, here: StandIn) -> Iterator[None]:
    """Fetch what lies beside the results, and put it back whichever way the block ends."""
    if address is None:
        yield
        return
    places = [f"{address}/{name}" for name in NOTES]
    fetch(places, here)
    try:
        yield
    finally:
        put([place for place in places if here.path(place).is_file()], here)
        for place in places:
            if not here.path(place).is_file() and is_there(place):
                remove(place)


def _images(address: str, beside: Collection[str], here: StandIn) -> None:
    """The images, given by their folder or by the one above it, and what lies beside them."""
    names = _placeholders(address, here)
    if not names:
        raise UserError(f"--img_root {address}: nothing there; expected images")
    root = address if any(name.startswith("JPEGImages/") for name in names) else address.rpartition("/")[0]
    for folder in beside:
        if folder == "SegmentationClass":
            _placeholders(f"{root}/{folder}", here)
        else:
            _fetch([f"{root}/{folder}/{name}" for name in below(f"{root}/{folder}")[0]], here)


def _placeholders(address: str, here: StandIn) -> list[str]:
    """An empty file for every file below an address; the names."""
    names, refused = below(address)
    for name in names:
        target = here.path(f"{address}/{name}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        except OSError:  # `a.jpg` beside `a.jpg/b.jpg`, or longer than the name of a file may be
            refused.append(name)
    if refused:
        print(
            f"left out: {len(refused)} names below {address} that no file can have, such as {refused[0]!a}",
            file=sys.stderr,
        )
    return names


def _some(option: str, address: str, here: StandIn) -> None:
    """The first CAM files, for the check that they were made for the same classes."""
    names = [name for name in below(address)[0] if name.endswith(".npz")]
    if not names:
        raise UserError(f"--{option} {address}: no CAM files there; expected the output of generate_cams.py")
    _fetch([f"{address}/{name}" for name in names[:SOME]], here)


def _small(name: str, address: str, here: StandIn) -> None:
    """A file, or a folder of VOC annotations."""
    _fetch([address], here)
    if name == "labels" and not here.path(address).exists():
        _fetch([f"{address}/{file}" for file in below(address)[0]], here)
    if not here.path(address).exists():
        raise UserError(f"--{name} {address}: nothing there")


def _fetch(addresses: list[str], here: StandIn) -> None:
    for trouble in fetch(addresses, here).values():
        raise UserError(trouble)
