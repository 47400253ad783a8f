"""Regions that lie in a folder, one file a photo, whoever made them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.arguments import option
from zsseg.proposals.proposer import Photo, Propose, Proposer

if TYPE_CHECKING:
    from pipeline.steps.regions import Regions


@dataclass(frozen=True)
class FolderSettings:
    """Where they lie."""

    folder: str | None = option(
        None,
        "label maps (png, npy) or masks (npz, COCO's run lengths as json) named like the photos, such as those of "
        "scripts.propose",
        flag="--proposal_dir",
        type=str,
        metavar="DIR",
    )


def complete(settings: FolderSettings) -> FolderSettings:
    """Raises UserError without such a folder, and for one without a file of regions."""
    from common.errors import UserError
    from common.files import files_below, need_dir
    from zsseg.proposals.files import ENDINGS

    if settings.folder is None:
        raise UserError("--proposal_dir is needed: a folder with a file of regions a photo")
    folder = need_dir(Path(settings.folder), "--proposal_dir", "a file of regions a photo")
    if not any(path.endswith(ENDINGS) for path in files_below(folder)):
        holds = "expected a file of regions a photo: png, npy, npz or json, such as scripts.propose makes"
        raise UserError(f"--proposal_dir {folder}: holds no such file; {holds}")
    return replace(settings, folder=str(folder.resolve()))


def propose(settings: FolderSettings, photo: Photo) -> Regions:
    """Raises UserError for a file that is missing, damaged, empty or of another size."""
    from common.errors import UserError
    from pipeline.steps.regions import fitted
    from zsseg.proposals.files import read_regions

    path = source(settings, photo.id)
    regions = read_regions(path)
    try:
        return fitted(regions, (photo.rgb.shape[0], photo.rgb.shape[1]), photo.size)
    except ValueError as error:
        raise UserError(f"{path}: {error}; make them again of this photo") from error


def source(settings: FolderSettings, image_id: str) -> Path:
    """The file of a photo."""
    from zsseg.proposals.files import find_file

    return find_file(Path(settings.folder or ""), image_id)


def load(settings: FolderSettings, device: Any) -> Propose:
    return partial(propose, settings)


PROPOSER = Proposer(FolderSettings, load, complete, source=source)
