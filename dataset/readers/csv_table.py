"""Labels as CSV with the header `image,labels` (further columns are not read); several labels are joined by `;`.

holiday/beach.jpg,person;dog
"""

import csv
from io import StringIO

from common.errors import UserError
from dataset.label_source import LabelSource, LabelTable

HEADER = ("image", "labels")


def recognises(source: LabelSource) -> bool:
    """Whether it is called so, or its first line is the header."""
    return source.suffix == ".csv" or set(_cells(source.start.replace('"', "").split(","))) >= set(HEADER)


def read(source: LabelSource) -> LabelTable:
    """Raises UserError, naming the line, for rows that do not fit the header."""
    path, table = source.path, LabelTable(str(source.path))
    rows = csv.reader(StringIO(source.text, newline=""), strict=True, skipinitialspace=True)
    try:
        header = _cells(next(rows, []))
        if [header.count(name) for name in HEADER] != [1, 1]:
            said = "expected the header image,labels (commas between columns), each once"
            raise UserError(f"{path}, line 1: {said}")
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


def _cells(row: list[str]) -> list[str]:
    return [cell.strip().lower() for cell in row]
