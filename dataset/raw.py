"""What annotation files are called and what their values mean."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dataset.spec import IGNORE_INDEX


@dataclass(frozen=True)
class RawForm:
    """One form in which a data set's annotations are distributed.

    values        mask value by raw value: a class index or 255; a file with any other raw value is refused
    ending        how the files' names end
    image_ending  what the names of the images have in its place, before their suffix
    beside        endings of other files in the same folders, which are passed over
    nested        whether files lie in folders below too, which are part of the ids then
    variable      of MATLAB files, the matrix of raw values; empty: the files are PNGs
    """

    values: Mapping[int, int]
    ending: str = ".png"
    image_ending: str = ""
    beside: tuple[str, ...] = ()
    nested: bool = True
    variable: str = ""


@dataclass(frozen=True)
class RawData:
    """A data set's annotations: what their folder is, to people, its forms, and the number of images of each split."""

    holds: str
    forms: tuple[RawForm, ...]
    counts: Mapping[str, int]


def in_order(classes: Iterable[int], unlabelled: Iterable[int]) -> dict[int, int]:
    """Mask values for raw values that stand for the classes in their order, and for others that are not scored."""
    indices = {value: index for index, value in enumerate(classes)}
    return indices | dict.fromkeys(unlabelled, IGNORE_INDEX)
