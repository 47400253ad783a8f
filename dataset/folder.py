"""The images of a user's folder, at any depth."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from common.files import need_dir
from dataset.ids import IMAGE_SUFFIXES, PICTURE_SUFFIXES, plain_id, unfit
from dataset.mask_png import is_made_here
from dataset.names import one_form
from dataset.text_files import files_below, is_systems
from dataset.voc_layout import image_file, inside

EXPECTED = "a folder of jpg, png, webp, tif or bmp images, at any depth"
OUTPUT = Path("output")  # the default folder of results, below the working folder


@dataclass
class Images:
    """The images of a folder.

    paths      by id, which is the path below the folder without suffix and with `/`; in the order of the ids
    twice      the files of ids that several files have
    problems   (id or name, reason) of files that cannot be used
    others     by id, the images that a split leaves out
    """

    paths: dict[str, Path] = field(default_factory=dict)
    twice: dict[str, list[str]] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    others: dict[str, Path] = field(default_factory=dict)

    @property
    def all_paths(self) -> dict[str, Path]:
        """Those of other splits too."""
        return self.others | self.paths


def find_images(root: Path) -> Images:
    """All images below a folder.

    Left out, with a line on stderr that counts them: hidden files and folders (a leading dot), those of systems
    (thumbnails), and results of this project: masks, and the folder `output` of the working folder.
    Links that lead out of the folder are refused, links to folders are not followed.
    Raises UserError when there is no such folder or no image in it.
    """
    need_dir(root, "--img_root", EXPECTED)
    images, written, hidden = Images(), list[Path](), list[Path]()
    for place, subfolders, names in os.walk(root):
        folder = Path(place)
        below = sorted(folder / name for name in subfolders if not is_systems(name))
        for name in filter(is_systems, subfolders):
            hidden += files_below(folder / name, "")
        subfolders.clear()
        for path in below:
            if path.resolve() == OUTPUT.resolve():
                written += [file for file in files_below(path, IMAGE_SUFFIXES) if file.name[0] != "."]
            elif path.is_symlink():
                images.problems.append((_below(root, path), "a link to a folder is not followed; copy it there"))
            else:
                subfolders.append(path.name)
        hidden += [folder / name for name in names if is_systems(name)]
        for path in sorted(folder / name for name in names if not is_systems(name)):
            if path.suffix.lower() == ".png" and is_made_here(path):
                written.append(path)
            else:
                _add(images, root, path)
    for files, (one, several) in (
        (written, ("picture that this project wrote", "pictures that this project wrote")),
        (hidden, ("hidden or system file", "hidden or system files")),
    ):
        if files:
            example = f"in {root}, such as {_below(root, min(files))!a}"
            print(f"left out: {len(files)} {one if len(files) == 1 else several}, {example}", file=sys.stderr)
    if not images.paths and not images.problems:
        raise UserError(f"--img_root {root}: no image in it; expected {EXPECTED}")
    images.paths = dict(sorted(images.paths.items()))
    spelling: dict[str, str] = {}
    for key, path in images.paths.items():  # ids may differ only in how a letter such as `ü` is encoded
        other = spelling.setdefault(one_form(key), key)
        if other != key:
            images.twice.setdefault(other, [ascii(images.paths[other].name)]).append(ascii(path.name))
    return images


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _add(images: Images, root: Path, path: Path) -> None:
    relative = _below(root, path)
    if path.suffix not in IMAGE_SUFFIXES:
        if path.suffix.lower() in PICTURE_SUFFIXES:  # none is lost in silence
            images.problems.append((relative, f"{path}: save it as .jpg or .png; pictures of this kind are not read"))
        return
    key = relative.removesuffix(path.suffix)
    try:
        plain_id(key, root)
        inside(path, root)
    except UserError as error:
        images.problems.append((ascii(key) if unfit(key) else key, str(error)))
        return
    if key in images.paths:
        images.twice.setdefault(key, [images.paths[key].name]).append(path.name)
        return
    images.paths[key] = path


def images_of(root: Path, ids: Sequence[str]) -> Images:
    """The images of a split: those of its ids that are there."""
    images = Images()
    for key in ids:
        path = image_file(root, key)
        if path is not None:
            try:
                images.paths[key] = inside(path, root)
            except UserError as error:
                images.problems.append((key, str(error)))
    return images


def restricted(images: Images, ids: Sequence[str]) -> Images:
    """The images and problems of these ids only."""
    kept = set(ids)
    return Images(
        {key: path for key, path in images.paths.items() if key in kept},
        {key: names for key, names in images.twice.items() if key in kept},
        [(key, reason) for key, reason in images.problems if key in kept or key.rpartition(".")[0] in kept],
        {key: path for key, path in images.paths.items() if key not in kept},
    )
