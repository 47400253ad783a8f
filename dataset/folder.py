"""The images of a user's folder, at any depth."""

import os
import struct
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from common.files import need_dir, need_file
from dataset.ids import plain_id, unfit
from dataset.label_table import image_id
from dataset.text_files import numbered_lines, read_text
from dataset.voc_layout import IMAGE_SUFFIXES, image_file, inside
from dataset.walk import walk

EXPECTED = "a folder of jpg, png or webp images, at any depth"
# Pictures that cannot be taken as they are: named, so that none is passed over in silence.
OTHER_PICTURES = (".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jfif", ".jp2", ".svg", ".raw", ".dng")
WRITTEN = Path("output")  # where the commands write when they are not told, below the working folder
PNG_START = b"\x89PNG\r\n\x1a\n"
MAX_PATH = 4096  # bytes that Linux takes for one
MAX_CHUNKS = 100  # of a PNG before its pixels


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

    def spelled(self, ids: Iterable[str]) -> list[str]:
        """The ids as the files are spelled: `ü` may be one sign or two (macOS). Those of no image stay as they are."""
        own = {_one_form(key): key for key in reversed(self.paths)}
        return [key if key in self.paths else own.get(_one_form(key), key) for key in ids]


def _one_form(key: str) -> str:
    """NFC; its time grows with the square of a run of accents, and no file name is as long as that would take."""
    return unicodedata.normalize("NFC", key) if len(key) <= MAX_PATH else key


def find_images(root: Path) -> Images:
    """All images below a folder; hidden files and folders (a leading dot) are left out.

    So is what this project wrote, which is told on stderr: the folder `output` of the working folder, and masks.
    Links that lead out of the folder are refused, links to folders are not followed.
    Raises UserError when there is no such folder or no image in it.
    """
    need_dir(root, "--img_root", EXPECTED)
    images, written = Images(), list[str]()
    for folder, subfolders, names in walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in [name for name in subfolders if (folder / name).resolve() == WRITTEN.resolve()]:
            subfolders.remove(name)
            written += [_below(root, path.parent, path.name) for path in _pictures(folder / name)]
        for name in subfolders:
            if (folder / name).is_symlink():
                images.problems.append(
                    (_below(root, folder, name), "a link to a folder is not followed; copy it there")
                )
        for name in sorted(names):
            if _has_made_by(folder / name):
                written.append(_below(root, folder, name))
            elif not name.startswith("."):
                _add(images, root, folder / name)
    _tell_written(root, written)
    if not images.paths and not images.problems:
        raise UserError(f"--img_root {root}: no image in it; expected {EXPECTED}")
    images.paths = dict(sorted(images.paths.items()))
    _add_twins(images)
    return images


def _below(root: Path, folder: Path, name: str) -> str:
    return (folder / name).relative_to(root).as_posix()


def _pictures(folder: Path) -> Iterator[Path]:
    for below, subfolders, names in walk(folder):
        subfolders.sort()
        yield from (below / name for name in sorted(names) if name.endswith(IMAGE_SUFFIXES) and name[0] != ".")


def _tell_written(root: Path, written: Sequence[str]) -> None:
    if written:
        count = f"{len(written)} picture{'s' * (len(written) > 1)}"
        print(f"left out: {count} that this project wrote, in {root}, such as {written[0]!a}", file=sys.stderr)


def _has_made_by(path: Path) -> bool:
    """Whether a PNG carries the text `made_by` of dataset/mask_png.py; only what precedes the pixels is read."""
    if path.suffix.lower() != ".png" or path.name.startswith(".") or not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            if stream.read(len(PNG_START)) != PNG_START:
                return False
            for _ in range(MAX_CHUNKS):
                head = stream.read(8)
                if len(head) < 8 or head[4:] in (b"IDAT", b"IEND"):
                    break
                (length,) = struct.unpack(">I", head[:4])
                start = stream.read(min(length, 8))
                if head[4:] in (b"tEXt", b"iTXt", b"zTXt") and start == b"made_by\0":
                    return True
                stream.seek(length - len(start) + 4, os.SEEK_CUR)  # the rest and its checksum
    except OSError:  # the stage that reads the picture says so
        pass
    return False


def _add_twins(images: Images) -> None:
    """Enter as `twice` the ids that look alike and differ in how a letter such as `ü` is put together."""
    first: dict[str, str] = {}
    for key, path in images.paths.items():
        other = first.setdefault(_one_form(key), key)
        if other != key:
            images.twice.setdefault(other, [ascii(images.paths[other].name)]).append(ascii(path.name))


def _add(images: Images, root: Path, path: Path) -> None:
    relative = _below(root, path.parent, path.name)
    if unfit(relative) and path.suffix.lower() in IMAGE_SUFFIXES:
        reason = f"{root}: a file name that is not UTF-8 or holds control characters; rename it"
        images.problems.append((ascii(relative), reason))
        return
    if path.suffix not in IMAGE_SUFFIXES:
        if path.suffix.lower() in (*OTHER_PICTURES, *IMAGE_SUFFIXES):
            images.problems.append((relative, f"{path}: save it as .jpg, .png or .webp; other pictures are not read"))
        return
    key = relative.removesuffix(path.suffix)
    try:
        plain_id(key, root)
        inside(path, root)
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
