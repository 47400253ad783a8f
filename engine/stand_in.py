"""What the process that starts a Ray run sees in place of addresses.

Folders of images and masks become folders of empty files with the same names: enough to choose ids, to match labels
and to tell what is missing, with the code that knows paths only. Small files (lists, labels, classes, annotations)
and the model are fetched. What a stage writes beside its results (run.json, failures.jsonl) is fetched before and put
back after.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cli import run_log
from common.errors import StopRun, UserError
from engine.ray_options import PLACES, TEXTS, Address
from engine.remote import StandIn, below, fetch, is_there, put, remove

NOTES = ("run.json", "failures.jsonl", "tags.txt")  # what a stage writes beside its results
SOME = 8  # CAM files that are looked at before the run


@contextmanager
def standing_in(args: argparse.Namespace, given: Mapping[str, Address]) -> Iterator[argparse.Namespace]:
    """The options with paths of this machine in place of addresses; `stand_in` is the folder they are in.

    `worker_device` is what --device was; this process itself computes on the CPU.
    """
    view = argparse.Namespace(**vars(args))
    view.stand_in, view.worker_device, view.device = None, args.device, "cpu"
    if not given:
        yield view
        return
    with tempfile.TemporaryDirectory(prefix="clip-pseudo-masks-") as folder:
        here = StandIn(Path(folder).resolve())
        view.stand_in = here.folder
        _fill(view, given, here)
        with _notes(view, given, here):
            yield view


def told(body: run_log.Body) -> run_log.Body:
    """A command's body with addresses again in what it tells, in place of the paths that stand in for them."""

    def spelled(view: argparse.Namespace, log: run_log.RunLog) -> int:
        if view.stand_in is None:
            return body(view, log)
        log.spell = StandIn(view.stand_in).told
        try:
            return body(view, log)
        except (UserError, StopRun) as error:
            raise type(error)(log.spell(error)) from error

    return spelled


def _fill(view: argparse.Namespace, given: Mapping[str, Address], here: StandIn) -> None:
    for name, address in given.items():
        if name not in PLACES:
            raise UserError(f"--{name} {address}: an address; give a path of this machine")
        setattr(view, name, str(here.path(address)) if name in TEXTS else here.path(address))
        if name == output_of(view):
            here.path(address).mkdir(parents=True, exist_ok=True)
        elif name == "img_root":
            _images(view, address, here)
        elif name == "gt_root":
            _placeholders(address, here)
        elif name == "cam_out_dir":
            _some(address, here)
        else:
            _small(name, address, here)


def output_of(args: argparse.Namespace) -> str:
    """The option that says where the results of a stage go."""
    return "pseudo_mask_save_path" if hasattr(args, "pseudo_mask_save_path") else "cam_out_dir"


@contextmanager
def _notes(view: argparse.Namespace, given: Mapping[str, Address], here: StandIn) -> Iterator[None]:
    """Fetch what lies beside the results, and put it back whichever way the block ends."""
    if output_of(view) not in given:
        yield
        return
    places = [f"{given[output_of(view)]}/{name}" for name in NOTES]
    fetch(places, here)
    try:
        yield
    finally:
        put([place for place in places if here.path(place).is_file()], here)
        for place in places:
            if not here.path(place).is_file() and is_there(place):
                remove(place)


def _images(view: argparse.Namespace, address: str, here: StandIn) -> None:
    """The images; for a data set in VOC's layout, given by its root or by JPEGImages, what lies beside them too."""
    names = _placeholders(address, here)
    if not names:
        raise UserError(f"--img_root {address}: nothing there; expected images")
    if view.dataset in ("folder", "coco14"):
        return
    root = address if any(name.startswith("JPEGImages/") for name in names) else address.rpartition("/")[0]
    reads_annotations = output_of(view) == "cam_out_dir" and view.labels is None
    _fetch([f"{root}/ImageSets/{name}" for name in below(f"{root}/ImageSets")[0]], here)
    if getattr(view, "gt_root", "unused") is None:
        _placeholders(f"{root}/SegmentationClass", here)
    if reads_annotations:
        _fetch([f"{root}/Annotations/{name}" for name in below(f"{root}/Annotations")[0]], here)


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


def _some(address: str, here: StandIn) -> None:
    """The first CAM files, for the check that they were made for the same classes."""
    here.path(address).mkdir(parents=True, exist_ok=True)
    names = [name for name in below(address)[0] if name.endswith(".npz")]
    if not names:
        raise UserError(f"--cam_out_dir {address}: no CAM files there; expected the output of generate_cams.py")
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
