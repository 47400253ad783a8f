"""Which image a label file or split means: by its path, or, where no path fits, by its file name."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from dataset.folder import Images
from dataset.ids import without_suffix
from dataset.names import one_form
from dataset.split_file import read_references

_HEX = set("0123456789abcdef")


@dataclass
class Found:
    """What the references of a file mean.

    ids      by reference, the id of its image
    by_name  the references of `ids` whose file name alone fits
    unclear  by reference, the ids of several images that it fits equally well
    rivals   by id, the references that fit an image equally well, by file name
    """

    ids: dict[str, str] = field(default_factory=dict)
    by_name: list[str] = field(default_factory=list)
    unclear: dict[str, list[str]] = field(default_factory=dict)
    rivals: dict[str, list[str]] = field(default_factory=dict)


def find_references(paths: Mapping[str, Path], references: Iterable[str], are_ids: bool = False) -> Found:
    """Find the images of references (dataset/ids.py), which are compared in one Unicode form.

    paths    the images by id
    are_ids  the references are ids rather than names of files, unless they tell otherwise themselves: matters where
             `photo.jpg` is the id of `photo.jpg.png`

    A path with or without suffix comes first. What is left is matched by file name with the most folders in common,
    upper and lower case alike, with images that no path names, where both have no other such partner.
    """
    references = list(references)
    exact = _Exact(paths, references, are_ids)
    found = Found()
    left = []
    for text in references:
        key = exact.id_of(text)
        if key is None:
            left.append(text)
        else:
            found.ids[text] = key
    if left:
        _match_names(paths, left, found)
    return found


def split_ids(images: Images, path: Path) -> list[str]:
    """The ids of the images that a user's split file names, in its order, each once; those without image stay."""
    exact = _Exact(images.paths, [], True)
    references = read_references(path, lambda text: exact.id_of(text) is not None)
    found = find_references(images.paths, references, are_ids=True)
    for key, rivals in found.rivals.items():
        raise UserError(f"{path}: {' and '.join(rivals[:2])} both fit the image {key}; write their folders")
    return list(dict.fromkeys(found.ids.get(text) or without_suffix(text) for text in references))


class _Exact:
    """Look-up of ids by path."""

    def __init__(self, paths: Mapping[str, Path], references: list[str], are_ids: bool) -> None:
        self.by_id = {one_form(key): key for key in reversed(list(paths))}
        self.files = {key: f"{key}{path.suffix}" for key, path in paths.items()}
        self.by_file = {one_form(file): key for key, file in self.files.items()}
        self.references, self.are_ids = {one_form(text) for text in references}, are_ids

    def id_of(self, text: str) -> str | None:
        for form in dict.fromkeys((one_form(text), one_form(text).strip())):
            as_id, as_file = self.by_id.get(form), self.by_file.get(form)
            if as_id is not None and as_file is not None:  # `photo.jpg` beside `photo.jpg.png`
                other_form = self.files[as_id] if self.are_ids else as_file  # the other image, in the other form
                return as_id if (one_form(other_form) in self.references) != self.are_ids else as_file
            key = as_file or as_id or self.by_id.get(without_suffix(form))
            if key is not None:
                return key
        return None


def _match_names(ids: Iterable[str], references: list[str], found: Found) -> None:
    """Add the references that fit one image best, which no path names and they fit best, to `found`."""
    named = set(found.ids.values())
    by_name: dict[str, list[list[str]]] = defaultdict(list)
    for key in ids:
        by_name[_folded(key)[0]].append([key, *_folded(key)[1:]])
    wanted: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for text in references:
        name, *folders = _folded(without_suffix(text.strip()))
        candidates = by_name.get(name) or by_name.get(_without_upload(name)) or []
        scores = [(_common(folders, above), key) for key, *above in candidates]
        best = [key for score, key in scores if score == max(scores)[0]]
        if len(best) == 1 and best[0] not in named:
            wanted[best[0]].append((max(scores)[0], text))
        elif len(best) > 1:
            found.unclear[text] = sorted(best)
    for key, claims in wanted.items():
        best = [text for score, text in claims if score == max(claims)[0]]
        if len(best) == 1:
            found.ids[best[0]] = key
            found.by_name += best
        else:
            found.rivals[key] = best


def _folded(path: str) -> list[str]:
    """The parts of a path from its end, in one form and case."""
    return one_form(path).casefold().split("/")[::-1]


def _common(one: list[str], other: list[str]) -> int:
    """How many parts are the same from the start on."""
    return next((number for number, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def _without_upload(name: str) -> str:
    """Label Studio puts eight digits and a dash before the names of uploaded files."""
    return name[9:] if name[8:9] == "-" and set(name[:8]) <= _HEX else name
