"""Class names as people write them: one Unicode form, look-up and suggestions."""

import difflib
import re
import unicodedata
from collections.abc import Sequence

from dataset.spec import DatasetSpec

MAX_NAME = 80  # characters; a class name is shorter


def one_form(text: str) -> str:
    """The text in NFC, in which names and ids are compared: `é` may be one sign, or two (file names of macOS)."""
    return unicodedata.normalize("NFC", text)


def plain_name(text: str) -> str:
    """A name in one Unicode form, with single spaces between its words and none around it."""
    return one_form(" ".join(text.split()))


def name_indices(spec: DatasetSpec) -> dict[str, int]:
    """Class index by plain name, the data set's other spellings included."""
    indices = {one_form(name): index for index, name in enumerate(spec.classes)}
    return {one_form(other): indices[one_form(name)] for other, name in spec.aliases} | indices


class ClassNames:
    """Class index by name: as it is spelled, else without regard to case, `_`, `-` and blanks where one class fits."""

    def __init__(self, spec: DatasetSpec) -> None:
        self.exact = name_indices(spec)
        folded: dict[str, set[int]] = {}
        for name, index in self.exact.items():
            folded.setdefault(_folded(name), set()).add(index)
        self.folded = {name: next(iter(indices)) for name, indices in folded.items() if len(indices) == 1}

    def get(self, name: str) -> int | None:
        name = plain_name(name)
        return self.exact.get(name, self.folded.get(_folded(name)))

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None


def _folded(name: str) -> str:
    return re.sub(r"[_\-\s]+", " ", name.casefold()).strip()


def hint(name: str, classes: Sequence[str]) -> str:
    """A suggestion for an unknown class name, as a clause for an error line."""
    name = name[:MAX_NAME]
    parts = [part for part in re.split(r"[,;|/+&\s]+", name) if part]
    if len(parts) > 1 and set(parts) <= set(classes):
        return "several names in one? CSV joins them by ; and text by spaces, or by commas after `id:`"
    spellings = {known.casefold(): known for known in classes}
    similar = difflib.get_close_matches(name.casefold(), spellings, n=1)
    if not similar:
        return f"expected one of {', '.join(classes[:6])[:120]}{', ...' if len(classes) > 6 else ''}"
    near = spellings[similar[0]]
    if " " in near and " " not in name:
        return f'did you mean {near!r}? in a line of words it goes in quotes: "{near}"'
    return f"did you mean {near!r}?"
