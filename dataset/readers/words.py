"""Labels as lines of words, one image a line, in either of two forms; lines that begin with # are comments.

holiday/beach person dog "traffic light"      words apart by spaces, those with spaces in double quotes
holiday/beach: person, traffic light, dog     a colon and a space after the image, names apart by commas
A number is the 0-based index of a class, as in COCO's split files. An image without names shows none of the classes.
"""

import re

from common.errors import UserError
from dataset.label_source import LabelSource, LabelTable
from dataset.label_values import names_in_cell
from dataset.text_files import numbered_lines

_TOKEN = re.compile(r'"([^"]*)"|([^\s"]+)')
_COLON = re.compile(r'(?:"([^"]*)"|([^"]+?)):(?:\s+|$)(.*)', re.DOTALL)


def recognises(source: LabelSource) -> bool:
    """Whether it is text that is neither JSON nor XML."""
    return not source.is_folder and not source.is_json and not source.start.startswith("<")


def read(source: LabelSource) -> LabelTable:
    """Raises UserError for a quote that is not closed and an id that leaves the folder."""
    table = LabelTable(str(source.path), indices=True)
    for number, line in numbered_lines(source.text):
        where = f"{source.path}, line {number}"
        image, texts = _split(line, where)
        table.add(
            image, [name for text in texts for name in names_in_cell(text, where, source.classes)], f"line {number}"
        )
    return table


def _split(line: str, where: str) -> tuple[str, list[str]]:
    match = _COLON.fullmatch(line)
    if match:
        return match[2] if match[1] is None else match[1], [match[3]]
    if line.count('"') % 2:
        raise UserError(f'{where}: a quote is not closed; expected: id name "two words"')
    image, *names = [quoted or bare for quoted, bare in _TOKEN.findall(line)]
    return image, names
