"""Label files as CSV: any bytes, any cells; what Python's own writer puts in comes out."""

import csv
import io
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dataset.labels import read_label_file
from tests.fuzz.labelled import check_table
from tests.fuzz.support import any_bytes, read_or_refuse

WHOLE = [
    b"image,labels\na.jpg,person;dog\nsub/c d.jpg,traffic light\n",
    b'labels,by,Image\r\n"person; dog",me,./a.jpg\r\n"x ""y""",,b\r\n',
    '\ufeffimage,labels\n"gr\u00fcn",dog\n'.encode(),
]


@given(any_bytes(*WHOLE))
def test_any_bytes(data: bytes) -> None:
    for name in ("labels.csv", "labels"):
        check_table(read_or_refuse(read_label_file, Path(name), data))


CELL = st.text(st.sampled_from("ab dogü0\"',;\n\r\t/.\\\x1b\x85\u2028"), max_size=8)


@given(st.lists(st.lists(CELL, max_size=4), max_size=5), st.booleans())
def test_any_cells(rows: list[list[str]], header: bool) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([["image", "labels"]] * header + rows)
    check_table(read_or_refuse(read_label_file, Path("labels.csv"), text.getvalue().encode()))


@given(st.dictionaries(st.text("abü,\" '#", min_size=1, max_size=5).filter(str.strip), st.sampled_from(("dog", "x y"))))
def test_what_is_right_is_read(labels: dict[str, str]) -> None:
    labels = {key.strip(): name for key, name in labels.items()}
    text = io.StringIO()
    csv.writer(text).writerows([("image", "labels"), *labels.items()])
    table = read_or_refuse(read_label_file, Path("labels.csv"), text.getvalue().encode())
    if not labels:
        return
    assert table is not None and {key: entry.names for key, entry in table.entries.items()} == {
        key: (name,) for key, name in labels.items()
    }


def test_fields_and_rows_without_measure() -> None:
    start = b"image,labels\n"
    for rest in (b'a,"' + b"x" * 200_000, b"a," + b"x" * 200_000, b"," * 500_000, b'"' * 999_999, b"a,dog\n" * 100_000,
                 b"a,dog;" * 100_000):  # fmt: skip
        check_table(read_or_refuse(read_label_file, Path("labels.csv"), start + rest))
    check_table(read_or_refuse(read_label_file, Path("labels.csv"), b"image,labels" + b"," * 900_000))
