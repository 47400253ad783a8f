"""What all label formats have in common: a table of plain ids, and a match with images that is told in short lines."""

import io
from contextlib import redirect_stderr
from pathlib import Path

from common.errors import UserError
from dataset.folder import Images
from dataset.label_source import LabelTable
from dataset.matching import match
from tests.fuzz.support import CLASSES, SPEC, check_ids, check_message, patience

IMAGES = Images({key: Path(f"photos/{key}.jpg") for key in ("a", "b", "sub/c d", "grün")})


def check_table(table: LabelTable | None) -> None:
    """Ids and names are as a table promises, and what is said of them is short."""
    if table is None:
        return
    check_ids(list(table.entries))
    for entry in table.entries.values():
        assert len(set(entry.names)) == len(entry.names) and all(entry.names)
    for _, reason in table.problems:
        check_message(reason)
    check_told(table)


def check_told(table: LabelTable) -> None:
    """The labels against three classes and four images: lines for people, and samples of these alone."""
    told = io.StringIO()
    with redirect_stderr(told), patience():
        found = match(SPEC, Path("photos"), IMAGES, table)
        try:
            found.print_lines()
        except UserError as error:
            check_message(str(error))
    for line in told.getvalue().split("\n"):
        check_message(line)
    for sample in found.samples:
        assert sample.id in IMAGES.paths and set(sample.labels) <= set(range(len(CLASSES)))
