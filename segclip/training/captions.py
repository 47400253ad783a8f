"""Which images have which captions: JSON Lines, CSV, COCO's captions and Karpathy's split of them; and token ids."""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from clip.tokenizer import SimpleTokenizer
from common.errors import UserError
from dataset.ids import IMAGE_SUFFIXES, plain_id
from dataset.text_files import numbered_lines, parse_json, read_text, shown
from dataset.voc_layout import inside

FILES = ("captions.jsonl", "captions.csv", "captions.json", "dataset_coco.json")  # looked for beside the images
EXPECTED = (
    'captions as JSON Lines {"image": "a.jpg", "caption": "a dog"}, as CSV with the header image,caption, '
    "or as COCO's or Karpathy's JSON"
)
SPLITS = ("train",)
LONG = 256  # words; what comes after them is not even tokenised

Problem = tuple[str, str]  # an image or line, and what is wrong with it


@dataclass(frozen=True)
class Pair:
    """An image and one of its captions. `id` is the image's name without suffix."""

    id: str
    image: Path
    caption: str


@dataclass(frozen=True)
class Row:
    """A line of a caption file: the possible names of the image, the caption, and where it stands."""

    names: tuple[str, ...]
    caption: Any
    where: str


@dataclass
class Captions:
    """The pairs of a caption file, the lines that cannot be used, and remarks for people."""

    pairs: list[Pair]
    problems: list[Problem]
    remarks: list[str]


def caption_file(folder: Path) -> Path:
    """The caption file of a folder; raises UserError when there is none, or more than one."""
    there = [folder / name for name in FILES if (folder / name).is_file()]
    if len(there) != 1:
        found = f"both {there[0].name} and {there[1].name}" if there else "no caption file"
        raise UserError(f"{folder}: {found} in it; name one with --captions FILE: {EXPECTED}")
    return there[0]


def read_captions(folder: Path, path: Path, splits: Sequence[str] = SPLITS) -> Captions:
    """The pairs of a caption file, whose images lie in the folder.

    splits  which parts of Karpathy's file
    Raises UserError when the file cannot be read, or no line of it can be used.
    """
    known: dict[tuple[str, ...], tuple[str, Path] | str] = {}
    result, long = Captions([], [], []), list[str]()
    for row in _rows(path, splits):
        if row.names not in known:
            known[row.names] = _image(folder, row)
        image = known[row.names]
        if isinstance(image, str):
            result.problems.append((row.names[0], image))
        elif not isinstance(row.caption, str) or not row.caption.strip():
            result.problems.append((row.names[0], f"{row.where}: an empty caption"))
        else:
            result.pairs.append(Pair(*image, row.caption))
            if row.caption.count(" ") >= LONG and len(row.caption.split()) > LONG:
                long.append(row.where)
    if not result.pairs:
        first = result.problems[0][1] if result.problems else f"{path}: no caption in it; expected {EXPECTED}"
        raise UserError(f"nothing to train on: {first}")
    if long:
        result.remarks.append(
            f"{long[0]}: a caption of more than {LONG} words ({len(long)} such); only their first tokens are read"
        )
    return result


def _image(folder: Path, row: Row) -> tuple[str, Path] | str:
    """The id and file of the first name for which there is one, or what is wrong."""
    try:
        for name in row.names:
            plain = plain_id(name, row.where)
            path = folder / plain
            if os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises for a name that is too long
                suffix = next((suffix for suffix in IMAGE_SUFFIXES if plain.endswith(suffix)), "")
                return plain.removesuffix(suffix), inside(path, folder)
    except UserError as error:
        return str(error)
    return f"{row.where}: no image {folder / row.names[0]}"


def _rows(path: Path, splits: Sequence[str]) -> Iterator[Row]:
    text = read_text(path, EXPECTED)
    if path.suffix in (".csv", ".tsv"):
        return _csv_rows(path, text)
    if path.suffix in (".jsonl", ".ndjson"):
        return _json_lines(path, text)
    content = parse_json(path, text, EXPECTED)
    try:
        if any("sentences" in image for image in content["images"][:1]):
            return iter(_karpathy_rows(path, content["images"], splits))
        return iter(_coco_rows(path, content))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: neither COCO's captions (images, annotations) nor Karpathy's; {EXPECTED}") from error


def _json_lines(path: Path, text: str) -> Iterator[Row]:
    """`caption` or `captions` of every line."""
    for number, line in numbered_lines(text):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not JSON; expected {EXPECTED}") from error
        several = row.get("captions", [row.get("caption")]) if isinstance(row, dict) else None
        if not isinstance(several, list) or not isinstance(row.get("image"), str):
            raise UserError(f"{where}: no `image` with `caption` or a list of `captions`; expected {EXPECTED}")
        yield from (Row((row["image"],), caption, where) for caption in several)


def _csv_rows(path: Path, text: str) -> Iterator[Row]:
    rows = csv.reader(StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
    try:
        header = [cell.strip().lower() for cell in next(rows, [])]
        if not {"image", "caption"} <= set(header):
            raise UserError(f"{path}, line 1: expected the header image,caption")
        image, caption = header.index("image"), header.index("caption")
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if row and len(row) != len(header):
                raise UserError(
                    f'{where}: {len(row)} columns, expected {len(header)}; put quotes around captions: "a, b"'
                )
            if row:
                yield Row((row[image].strip(),), row[caption], where)
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: not CSV ({error}); expected {EXPECTED}") from error


def _karpathy_rows(path: Path, images: list[dict[str, Any]], splits: Sequence[str]) -> list[Row]:
    """One row a sentence of the images of the splits; files lie in the folder, or below it in `filepath`."""
    found = sorted({str(image["split"]) for image in images})
    if unknown := [split for split in splits if split not in found]:
        raise UserError(f"--splits {unknown[0]}: {path} has no image of it; expected some of {', '.join(found)}")
    rows = []
    for image in images:
        if image["split"] in splits:
            name = str(image["filename"])
            names = (name, f"{image['filepath']}/{name}") if image.get("filepath") else (name,)
            rows += [Row(names, sentence["raw"], f"{path}, {shown(name)}") for sentence in image["sentences"]]
    return rows


def _coco_rows(path: Path, content: dict[str, Any]) -> list[Row]:
    """One row an annotation, in the order of the file."""
    names = {image["id"]: str(image["file_name"]) for image in content["images"]}
    return [
        Row((names[item["image_id"]],), item["caption"], f"{path}, {shown(names[item['image_id']])}")
        for item in content["annotations"]
    ]


def caption_tokens(caption: str, length: int) -> list[int]:
    """(length,) token ids: start, the words, end, zeros. A longer caption is cut, and ends with the end token."""
    tokenizer = SimpleTokenizer()
    words = caption.split()
    text = caption if len(words) <= LONG else " ".join(words[:LONG])
    ids = [tokenizer.sot_token_id, *tokenizer.encode(text)[: length - 2], tokenizer.eot_token_id]
    return ids + [0] * (length - len(ids))
