"""The images of a user's folder, at any depth. May import dataset and common."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from common.files import check_id, need_dir, need_file
from dataset.label_table import image_id
from dataset.text_files import numbered_lines, read_text
from dataset.voc_layout import IMAGE_SUFFIXES, image_file, inside

EXPECTED = "a folder of jpg, png or webp images, at any depth"
# Pictures that cannot be taken as they are: named, so that none is passed over in silence.
OTHER_PICTURES = (".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jfif", ".jp2", ".svg", ".raw", ".dng")


@dataclass
class Images:
    """What a folder holds.

    paths      by id, the path below the folder without suffix and with `/`, in the order of the ids
    twice      ids that several files have, with those files
    problems   (id or name, reason) of files that cannot be used
    """

    paths: dict[str, Path] = field(default_factory=dict)
    twice: dict[str, list[str]] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)


def find_images(root: Path) -> Images:
    """All images below a folder; hidden files and folders (a leading dot) are left out.

    Links that lead out of the folder are refused, links to folders are not followed.
    Raises UserError when there is no such folder or no image in it.
    """
    need_dir(root, "--img_root", EXPECTED)
    images = Images()
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in subfolders:
            if (Path(folder) / name).is_symlink():
                images.problems.append(
                    (_below(root, folder, name), "a link to a folder is not followed; copy it there")
                )
        for name in sorted(names):
            if not name.startswith("."):
                _add(images, root, Path(folder) / name)
    if not images.paths and not images.problems:
        raise UserError(f"--img_root {root}: no image in it; expected {EXPECTED}")
    images.paths = dict(sorted(images.paths.items()))
    return images


def _below(root: Path, folder: str | Path, name: str) -> str:
    return (Path(folder) / name).relative_to(root).as_posix()


def _add(images: Images, root: Path, path: Path) -> None:
    relative = _below(root, path.parent, path.name)
    if path.suffix not in IMAGE_SUFFIXES:
        if path.suffix.lower() in (*OTHER_PICTURES, *IMAGE_SUFFIXES):
            images.problems.append((relative, f"{path}: save it as .jpg, .png or .webp; other pictures are not read"))
        return
    key = relative.removesuffix(path.suffix)
    try:
        relative.encode()
        check_id(key, root)
        inside(path, root)
    except UnicodeEncodeError:
        images.problems.append((ascii(relative), f"{root}: a file name that is not UTF-8; rename it"))
        return
    except UserError as error:
        images.problems.append((key, str(error)))
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


def read_ids(path: Path) -> list[str]:
    """The ids of a user's own split file, one a line: the whole line, so that names may hold spaces; suffix or not."""
    expected = "one image a line"
    text = read_text(need_file(path, "--split_file", expected), expected)
    ids = [image_id(line, f"{path}, line {number}") for number, line in numbered_lines(path, text)]
    if not ids:
        raise UserError(f"{path}: an empty split; expected {expected}")
    return list(dict.fromkeys(ids))


def restricted(images: Images, ids: Sequence[str]) -> Images:
    """What concerns these ids only."""
    wanted = set(ids)
    return Images(
        {key: path for key, path in images.paths.items() if key in wanted},
        {key: names for key, names in images.twice.items() if key in wanted},
        [(key, reason) for key, reason in images.problems if key in wanted or key.rpartition(".")[0] in wanted],
    )
