"""Labels as lines of words and as CSV.

Lines of words, one image a line, in either of two forms; lines that begin with # are comments:
    holiday/beach person dog "traffic light"      words apart by spaces, those with spaces in double quotes
    holiday/beach: person, traffic light, dog     a colon and a space after the image, names apart by commas
In the first form a number is the 0-based index of a class, as in COCO's split files.

CSV, with the header `image,labels` (further columns are not read); several labels are joined by `;`:
    holiday/beach.jpg,person;dog
"""

import csv
import re
from pathlib import Path

from common.errors import UserError
from dataset.label_table import LabelTable
from dataset.text_files import lines_of, numbered_lines

_TOKEN = re.compile(r'"([^"]*)"|([^\s"]+)')
_COLON = re.compile(r'(?:"([^"]*)"|([^"]+?)):(?:\s+|$)(.*)', re.DOTALL)
HEADER = ("image", "labels")
MAX_HEADER = 1 << 16  # characters that are looked at to tell CSV from other text


def read_words(path: Path, text: str) -> LabelTable:
    """Lines of words; raises UserError for a quote that is not closed and an id that leaves the folder."""
    table = LabelTable(str(path), indices=True)
    for number, line in numbered_lines(path, text):
        image, names = _split(line, f"{path}, line {number}")
        table.add(image, names, f"line {number}")
    return table


def _split(line: str, where: str) -> tuple[str, list[str]]:
    match = _COLON.fullmatch(line)
    if match:
        return match[2] if match[1] is None else match[1], match[3].split(",")
    if line.count('"') % 2:
        raise UserError(f'{where}: a quote is not closed; expected: id name "two words"')
    image, *names = [quoted or bare for quoted, bare in _TOKEN.findall(line)]
    return image, names


def is_csv(text: str) -> bool:
    """Whether the first line is the CSV header."""
    first = text[:MAX_HEADER].lstrip().split("\n", 1)[0]
    return {cell.strip().strip('"').lower() for cell in first.split(",")} >= set(HEADER)


def read_csv(path: Path, text: str) -> LabelTable:
    """CSV with a header; raises UserError, naming the line, for rows that do not fit it."""
    table = LabelTable(str(path))
    rows = csv.reader(lines_of(path, text), strict=True, skipinitialspace=True)
    try:
        header = [cell.strip().lower() for cell in next(rows, [])]
        if not set(HEADER) <= set(header):
            raise UserError(f"{path}, line 1: expected the header image,labels (commas between columns)")
        image, labels = (header.index(name) for name in HEADER)
        for row in rows:
            if len(row) > len(header) or 0 < len(row) <= max(image, labels):
                raise UserError(
                    f"{path}, line {rows.line_num}: {len(row)} columns where the header has {len(header)}; "
                    "join several labels by ;"
                )
            if row:
                table.add(row[image], row[labels].split(";"), f"line {rows.line_num}")
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: not CSV ({error}); expected rows as a.jpg,dog;cat") from error
    return table
