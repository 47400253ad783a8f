"""Labels as a table (CSV, TSV) with a header, in any of three forms, which are recognised by the header's names.

image,labels                 file_name;class             image,dog,cat
a.jpg,dog;cat                a.jpg;dog                   a.jpg,1,1
                             a.jpg;cat                   b.jpg,0,0

Separators are `,` `;` tab and `|`, or what a first line `sep=;` says. Rows of one image are put together. Several
columns of labels are all read. Open Images' files, in which a class is a code and `Confidence` 0 means absent, are such
tables too. Which columns are read: dataset/label_values.py.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from common.errors import UserError
from common.files import is_file
from dataset.ids import is_picture
from dataset.label_source import LabelSource, LabelTable, fields_text
from dataset.label_values import Fields, choose_fields, names_in_cell, plain_field, refuse_classes
from dataset.names import plain_name
from dataset.text_files import read_text, shown

SEPARATORS = ",;\t|"
EXPECTED = "expected a header such as image,labels or image,dog,cat"
YES, NO = {"1", "1.0", "true", "yes", "y", "x"}, {"0", "0.0", "false", "no", "n", ""}
ABSENT = {"-1", "-1.0"}
CODE = re.compile(r"/[mgt]/\w+")  # of a class of Open Images
SNIFFED = 1 << 16  # characters


@dataclass(frozen=True)
class Row:
    """The cells of a row and the line it ends on."""

    cells: list[str]
    line: int


def recognises(source: LabelSource) -> bool:
    """Whether it is called so, says its separator, or its first line names a field of images and one of labels."""
    if source.is_folder or source.is_json or source.start.startswith("<"):
        return False
    if source.suffix in (".csv", ".tsv") or source.start.lower().startswith("sep="):
        return True
    return any(_is_header(_cells(source.start, sign)) for sign in SEPARATORS)


def _cells(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        return []


def _is_header(cells: list[str]) -> bool:
    try:
        fields = choose_fields(cells, "")
    except UserError:
        return False
    return fields.image is not None and bool(fields.labels)


def read(source: LabelSource) -> LabelTable:
    """Raises UserError, naming the line, for rows that do not fit the header and cells that cannot be read."""
    path, table = source.path, LabelTable(str(source.path), indices=True)
    rows = _rows(source, table)
    header = next(rows, Row([], 1))
    where, names = f"{path}, line {header.line}", header.cells
    if any(map(is_picture, names)):
        raise UserError(f"{where}: names an image, and no columns; {EXPECTED}")
    body = list(rows)
    fields = choose_fields(names, where, source.classes)
    image = _image_column(fields, body, names)
    if image is None:
        raise UserError(f"{where}: no column for the image; {EXPECTED}")
    if fields.labels:
        refuse_classes((names[number] for number in fields.others if number != image), where, source.classes)
        _read_labels(source, table, body, Fields(image, fields.labels, fields.others), names)
    else:
        _read_columns(source, table, body, image, names, where)
    return table


def _rows(source: LabelSource, table: LabelTable) -> Iterator[Row]:
    """The rows that hold anything; each has as many cells as the first, but for empty ones at the end."""
    text, lines = source.text, 0
    if source.start.lower().startswith("sep="):  # for Excel
        lines, text = text[: text.index("=")].count("\n") + 1, text.lstrip().partition("\n")[2]
    rows = csv.reader(
        StringIO(text, newline=""), delimiter=_separator(source, text), strict=True, skipinitialspace=True
    )
    width, empty = 0, 0
    try:
        for row in rows:
            line = rows.line_num + lines
            if not "".join(row).strip(SEPARATORS + " "):
                empty += len(row) > 0
                continue
            width = width or len(row)
            if len(row) > width and not any(cell.strip() for cell in row[width:]):
                row = row[:width]
            if len(row) != width:
                remedy = "join several labels by ;, or put them in quotes"
                raise UserError(
                    f"{source.path}, line {line}: {_columns(len(row))} where the header has {width}; {remedy}"
                )
            yield Row(row, line)
    except csv.Error as error:
        line = rows.line_num + lines
        raise UserError(f"{source.path}, line {line}: not CSV ({error}); expected rows as a.jpg,dog;cat") from error
    if empty:
        table.notes.append(f"{empty} rows of separators alone passed over")


def _columns(count: int) -> str:
    return f"{count} column{'' if count == 1 else 's'}"


def _separator(source: LabelSource, text: str) -> str:
    """The separator: what the file says, the one that makes a header, or what Python's csv.Sniffer finds.

    The header comes first: the sniffer counts signs, and takes the one inside the cells where they hold lists.
    """
    start = source.start
    if start.lower().startswith("sep="):
        return start[4:].strip(" \"'") or "\t"
    first = text.lstrip("\r\n").split("\n", 1)[0].rstrip("\r")
    headers = [sign for sign in SEPARATORS if _is_header(_cells(first, sign))]
    if len(headers) == 1:
        return headers[0]
    if source.suffix == ".tsv" and "\t" in first:
        return "\t"
    counts = {sign: first.count(sign) for sign in SEPARATORS if sign in first}
    if len(counts) == 1:
        return next(iter(counts))
    try:
        return csv.Sniffer().sniff(text[:SNIFFED], delimiters=SEPARATORS).delimiter
    except csv.Error:
        return max(counts, key=lambda sign: counts[sign], default=",")


def _image_column(fields: Fields, body: list[Row], names: list[str]) -> int | None:
    """The column that is called so, or the first whose cells are names of pictures."""
    columns = range(len(names)) if body and fields.image is None else ()
    pictures = [column for column in columns if all(is_picture(row.cells[column]) for row in body)]
    return pictures[0] if pictures else fields.image


def _read_labels(source: LabelSource, table: LabelTable, body: list[Row], fields: Fields, names: list[str]) -> None:
    """Columns of names."""
    confidence = next((number for number in fields.others if plain_field(names[number]) == "confidence"), None)
    codes, uncertain = _class_codes(source, body, fields), 0
    for row in body:
        place, image = f"{source.path}, line {row.line}", row.cells[fields.image or 0]
        found = [
            codes.get(name, name)
            for column in fields.labels
            for name in names_in_cell(row.cells[column], place, source.classes)
        ]
        if not image.strip():
            raise UserError(f"{place}: labels without an image; name its file")
        if confidence is not None and found:
            sure = _share(row.cells[confidence], place)
            uncertain += 0 < sure < 1
            found = found if sure >= 0.5 else []
        table.add(image, found, f"line {row.line}", merge=True)
    if uncertain:
        table.notes.append(f"{uncertain} labels with a confidence between 0 and 1, taken from 0.5 on")
    if others := [names[number] for number in fields.others if number not in (confidence, fields.image)]:
        table.notes.append(f"not read: {fields_text(others)}")


def _share(text: str, where: str) -> float:
    try:
        share = float(text or 1)
    except ValueError:
        share = -1
    if not 0 <= share <= 1:
        raise UserError(f"{where}: confidence {shown(text)}; expected a number from 0 to 1")
    return share


def _class_codes(source: LabelSource, body: list[Row], fields: Fields) -> dict[str, str]:
    """The names of Open Images' codes, from a file of class descriptions near by; empty where no codes are used."""
    if not any(CODE.fullmatch(row.cells[column].strip()) for row in body[:100] for column in fields.labels):
        return {}
    for folder in (source.path.parent, source.path.parent.parent):
        for path in sorted([*folder.glob("*class*desc*.csv"), *folder.glob("*/*class*desc*.csv"), *_classes(folder)]):
            lines = csv.reader(StringIO(read_text(path, "code,name a line")))
            codes = {
                row[0].strip(): row[1].strip() for row in lines if len(row) == 2 and CODE.fullmatch(row[0].strip())
            }
            if codes:
                return codes
    raise UserError(f"{source.path}: classes are codes such as /m/01g317; put class-descriptions.csv beside it")


def _classes(folder: Path) -> list[Path]:
    return [path for path in (folder / "classes.csv", folder / "metadata" / "classes.csv") if is_file(path)]


def _read_columns(
    source: LabelSource, table: LabelTable, body: list[Row], image: int, names: list[str], where: str
) -> None:
    """A column a class, with 1 where an image shows it. Other columns than classes may hold anything."""
    columns, others = [], []
    for column, name in enumerate(names):
        values = {row.cells[column].strip().lower() for row in body}
        if column != image and values <= YES | NO | ABSENT and name.strip():
            columns.append(column)
        elif column != image and (plain_name(name) in source.classes):
            line, cell = next((row.line, row.cells[column]) for row in body if not _is_switch(row.cells[column]))
            raise UserError(f"{source.path}, line {line}: column {shown(name.strip())} holds {shown(cell)}, not 0 or 1")
        elif column != image:
            others.append(name)
    if not columns or not body:
        raise UserError(f"{where}: no column of labels; {EXPECTED}")
    _check_absent(source, body, columns)
    for row in body:
        if not row.cells[image].strip():
            raise UserError(f"{source.path}, line {row.line}: labels without an image; name its file")
        found = [plain_name(names[column]) for column in columns if row.cells[column].strip().lower() in YES]
        table.add(row.cells[image], found, f"line {row.line}", merge=True)
    table.form = "table of 0 and 1"
    if others:
        table.notes.append(f"not read: {fields_text(others)}")


def _is_switch(cell: str) -> bool:
    return cell.strip().lower() in YES | NO | ABSENT


def _check_absent(source: LabelSource, body: list[Row], columns: list[int]) -> None:
    """-1 or an empty cell stand for absent where there is no 0, and for something else in data sets that have both."""
    absent = next((row for row in body for column in columns if row.cells[column].strip() in ABSENT | {""}), None)
    zeros = any(row.cells[column].strip().lower() in NO - {""} for row in body for column in columns)
    if absent is not None and zeros:
        told = "holds -1 or an empty cell beside 0 and 1; write 0 where a class is absent"
        raise UserError(f"{source.path}, line {absent.line}: {told}")
