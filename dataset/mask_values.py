"""`--mask_values`: which class the grey values or colours of a user's masks stand for.

0,255=0,1              grey values and the mask values they become (0 is the background, where there is one)
255=cup 0=background   the same by name, several arguments; `ignore` is 255
#ff0000=cup            a colour
voc, coco-stuff, ade20k, cityscapes      the colours of a data set's classes
FILE                   lines `255 cup`, `255,0,0 cup`, or a labelmap.txt of CVAT: `cup:255,0,0::`
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import is_file
from dataset.names import ClassNames, hint
from dataset.palettes import ADE20K, CITYSCAPES, COCO_STUFF, voc_palette
from dataset.spec import IGNORE_INDEX, DatasetSpec
from dataset.text_files import read_text, shown

EXPECTED = "expected grey values or #rrggbb and what they stand for, as in 0,255=0,1 or 255=cup, a palette, or a file"
PALETTES = ("voc", "coco-stuff", "ade20k", "cityscapes")
BLACK, VOC_BORDER = 0, 0xE0E0C0
SEVERAL = -1  # a colour that several classes share
MOST_GREY = 1 << 16

_RAW = r"(#[0-9a-fA-F]{6}|\d+)"
_COLOUR = r"(\d+)[\s,]+(\d+)[\s,]+(\d+)"
_LINE = re.compile(rf"(?:{_COLOUR}|{_RAW})[\s,:=]+(\S.*)")
_LABELMAP = re.compile(r"([^:#][^:]*):(\d+),(\d+),(\d+)(?::.*)?")


@dataclass(frozen=True)
class MaskValues:
    """Mask value by raw value: of grey or palette-index masks, and of colours as 24-bit numbers; SEVERAL: unclear.

    Without mention 255 stays 255; any other raw value without mention is refused.
    """

    grey: tuple[tuple[int, int], ...] = ()
    colours: tuple[tuple[int, int], ...] = ()

    def apply(self, raw: np.ndarray, where: str) -> np.ndarray:
        """(H, W) uint8 of grey values (H, W) or RGB (H, W, 3). Raises UserError, naming `where`, for other values."""
        if raw.ndim == 3:
            codes = raw.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
            return _looked_up(codes, dict(self.colours), where, "colour")
        if not self.grey:  # a grey picture of colours
            return self.apply(np.repeat(raw[..., None], 3, axis=2), where)
        return _looked_up(raw.astype(np.int64), {IGNORE_INDEX: IGNORE_INDEX, **dict(self.grey)}, where, "value")


def _looked_up(raw: np.ndarray, table: Mapping[int, int], where: str, what: str) -> np.ndarray:
    values, places = np.unique(raw, return_inverse=True)
    result = np.zeros(len(values), np.uint8)
    for number, value in enumerate(values.tolist()):
        name = f"#{value:06x}" if what == "colour" else str(value)
        if value not in table:
            raise UserError(f"{where}: holds the {what} {name}, which --mask_values does not mention; add it")
        if table[value] == SEVERAL:
            raise UserError(
                f"{where}: holds the {what} {name}, which several classes of the palette share; give a file"
            )
        result[number] = table[value]
    return result[places].reshape(raw.shape)


def parse_mask_values(
    texts: Sequence[str], spec: DatasetSpec, palette_names: Mapping[str, Sequence[str]]
) -> MaskValues:
    """The values of the option.

    palette_names  the names of each palette's classes, in the order of its colours
    Raises UserError for what cannot be read.
    """
    grey: dict[int, int] = {}
    colours: dict[int, int] = {}
    for text in texts:
        if text in PALETTES:
            colours |= _palette(text, palette_names[text], spec)
        elif "=" in text and not is_file(Path(text)):
            raw, _, targets = text.partition("=")
            pairs = list(zip(raw.split(","), targets.split(",")))
            if len(raw.split(",")) != len(targets.split(",")):
                raise UserError(f"--mask_values {text}: {len(raw.split(','))} values on the left and not as many right")
            for value, target in pairs:
                _put(grey, colours, value.strip(), _target(target.strip(), spec, "--mask_values"), "--mask_values")
        else:
            _read_file(Path(text), spec, grey, colours)
    return MaskValues(tuple(grey.items()), tuple(colours.items()))


def _put(grey: dict[int, int], colours: dict[int, int], raw: str, value: int, where: str) -> None:
    if re.fullmatch(r"#[0-9a-fA-F]{6}", raw):
        table, key = colours, int(raw[1:], 16)
    elif raw.isdecimal() and len(raw) < 6 and int(raw) < MOST_GREY:
        table, key = grey, int(raw)
    else:
        raise UserError(f"{where}: {shown(raw)} is no grey value and no colour; {EXPECTED}")
    if table.get(key, value) != value:
        raise UserError(f"{where}: {raw} stands for both mask value {table[key]} and {value}; leave one of them out")
    table[key] = value


def _target(text: str, spec: DatasetSpec, where: str) -> int:
    """The mask value that a number or name stands for."""
    if text.isdecimal() and len(text) < 4:
        if int(text) < spec.num_labels or int(text) == IGNORE_INDEX:
            return int(text)
        raise UserError(f"{where}: mask value {text}; there are 0 to {spec.num_labels - 1}, and 255 to ignore")
    index = ClassNames(spec).get(text)
    if index is not None:
        return index + int(spec.has_background)
    if text.lower() in ("ignore", "ignored", "void", "unlabelled", "unlabeled"):
        return IGNORE_INDEX
    if text.lower() in ("background", "_background_") and spec.has_background:
        return 0
    raise UserError(f"{where}: {shown(text)} is no class; {hint(text, spec.classes)}, or background, or ignore")


def _read_file(path: Path, spec: DatasetSpec, grey: dict[int, int], colours: dict[int, int]) -> None:
    if not is_file(path):
        raise UserError(f"--mask_values {path}: no such file and no palette ({', '.join(PALETTES)}); {EXPECTED}")
    text = read_text(path, "lines such as `255 cup` or `255,0,0 cup`", 1 << 20)
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or re.match("#(?![0-9a-fA-F]{6})", line):  # a comment, and no colour
            continue
        where = f"{path}, line {number}"
        labelmap, match = _LABELMAP.fullmatch(line), _LINE.fullmatch(line)
        if labelmap:
            _put(
                grey,
                colours,
                _hexadecimal(labelmap.groups()[1:], where),
                _target(labelmap[1].strip(), spec, where),
                where,
            )
        elif match and match[1]:
            _put(grey, colours, _hexadecimal(match.groups()[:3], where), _target(match[5].strip(), spec, where), where)
        elif match:
            _put(grey, colours, match[4], _target(match[5].strip(), spec, where), where)
        else:
            raise UserError(
                f"{where}: {shown(line)}; expected `255 cup`, `255,0,0 cup`, `#ff0000 cup` or `cup:255,0,0::`"
            )


def _hexadecimal(parts: Sequence[str], where: str) -> str:
    if any(len(part) > 3 or int(part) > 255 for part in parts):
        raise UserError(f"{where}: a colour has three numbers from 0 to 255")
    return "#" + "".join(f"{int(part):02x}" for part in parts)


def palette_colours(name: str) -> list[int]:
    """The colours of a palette's classes as 24-bit numbers."""
    if name == "voc":
        return [(int(red) << 16) | (int(green) << 8) | int(blue) for red, green, blue in voc_palette()[1:]]
    return [int(text, 16) for text in {"coco-stuff": COCO_STUFF, "ade20k": ADE20K, "cityscapes": CITYSCAPES}[name]]


def _palette(name: str, names: Sequence[str], spec: DatasetSpec) -> dict[int, int]:
    """Colours to mask values. Where the palette knows all classes by name they are found by name, and its other classes
    are background (255 without one); else its colours are the classes in their order, as labelme draws them.
    """
    background, colours = int(spec.has_background), palette_colours(name)
    outside = 0 if spec.has_background else IGNORE_INDEX
    named = ClassNames(spec)
    by_name = {named.get(other) for other in names} >= set(range(len(spec.classes)))
    result: dict[int, int] = {}
    for number, colour in enumerate(colours):
        index = number if number < len(spec.classes) else None
        if by_name:
            index = named.get(names[number]) if number < len(names) else None
            if index is None and number >= len(names):
                continue
        elif index is None:
            continue
        value = outside if index is None else index + background
        result[colour] = value if result.get(colour, value) == value else SEVERAL
    return {BLACK: outside, **({VOC_BORDER: IGNORE_INDEX} if name == "voc" else {}), **result}
