"""Label files of every form: any bytes, any content in its places; what is right comes out as it was put in."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from common.errors import UserError
from dataset.label_values import IMAGE_FIELDS, LABEL_FIELDS, LABEL_NUMBERS, plain_field
from dataset.labels import read_label_file, read_labels_argument
from tests.fuzz.labelled import IMAGES, check_table
from tests.fuzz.support import SPEC, any_bytes, check_message, patience, read_or_refuse

pytestmark = pytest.mark.slow

Labels = dict[str, list[str]]
NAMES = ("labels.csv", "labels.jsonl", "labels.json", "labels.txt", "labels")
WHOLE = [
    b"image,labels\na.jpg,person;dog\nsub/c d.jpg,traffic light\n",
    b'labels,by,Image\r\n"person; dog",me,./a.jpg\r\n"x ""y""",,b\r\n',
    '\ufeffimage,labels\n"gr\u00fcn",dog\n'.encode(),
    b'{"image": "a.jpg", "labels": ["dog", "person"]}\n{"image": "sub/c d.jpg", "labels": []}\n',
    b'{\n  "image": "gr\\u00fcn",\n  "labels": ["traffic light"]\n}\n',
    b'{"image": "\\ud83d\\ude00", "labels": ["\\ud800", "\\u001b[2J"]}\n',
    b'# mine\na person dog\n"sub/c d" "traffic light"\nb 0 2\n',
    b'a.jpg: person, traffic light\n"sub/c d.png": dog\n',
    "\ufeffgrün dog\r\nb\r\n".encode(),
    b"a dgo\nb zebra traffic\na 7\n",
]


def check(name: str, data: bytes) -> None:
    check_table(read_or_refuse(read_label_file, Path(name), data))


@given(st.sampled_from(NAMES), any_bytes(*WHOLE))
def test_any_bytes(name: str, data: bytes) -> None:
    check(name, data)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)
CELL = st.text(st.sampled_from("ab dogü0\"':,;#\n\r\t/.\\\x1b\x85\u2028\u202e"), max_size=12)


@given(st.sampled_from(NAMES), st.lists(st.one_of(JSON, st.fixed_dictionaries({"image": JSON, "labels": JSON}))))
def test_any_json(name: str, rows: list[Any]) -> None:
    check(name, "\n".join(json.dumps(row) for row in rows).encode())


@given(st.lists(st.lists(CELL, max_size=4), max_size=5), st.booleans())
def test_any_cells_and_lines(rows: list[list[str]], header: bool) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([["image", "labels"]] * header + rows)
    check("labels.csv", text.getvalue().encode())
    check("labels.txt", "\n".join(" ".join(row) for row in rows).encode())


def as_csv(labels: Labels) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([("image", "labels"), *((key, ";".join(names)) for key, names in labels.items())])
    return text.getvalue()


def as_quoted_words(labels: Labels) -> str:
    return "".join(" ".join(f'"{word}"' for word in (key, *names)) + "\n" for key, names in labels.items())


def as_list_cells(labels: Labels) -> str:
    return "file;tags\n" + "".join(f"{key};{names!r}\n" for key, names in labels.items())


def as_rows_of_labels(labels: Labels) -> str:
    rows = [f"{key}\t{name}\n" for key, names in labels.items() for name in names or [""]]
    return "image\tclass\n" + "".join(rows)


def as_columns(labels: Labels) -> str:
    columns = list(dict.fromkeys(name for names in labels.values() for name in names)) or ["x"]
    text = io.StringIO()
    rows = [(key, *(int(name in names) for name in columns)) for key, names in labels.items()]
    csv.writer(text).writerows([("file_name", *columns), *rows])
    return text.getvalue()


FORMS: dict[str, Callable[[Labels], str]] = {
    "labels.csv": as_csv,
    "lists.csv": as_list_cells,
    "rows.tsv": as_rows_of_labels,
    "columns.csv": as_columns,
    "labels.json": lambda labels: json.dumps([{"file_name": key, "labels": names} for key, names in labels.items()]),
    "fiftyone.json": lambda labels: json.dumps({"classes": None, "labels": labels}),
    "labels.txt": as_quoted_words,
    "labels": lambda labels: "# x\n" + "".join(f"{key}: {', '.join(names)}\n" for key, names in labels.items()),
    "labels.jsonl": lambda labels: "".join(
        json.dumps({"image": key, "labels": names}) + "\n" for key, names in labels.items()
    ),
}
LETTERS = st.characters(
    min_codepoint=33,
    exclude_categories=("Cs", "Cc", "Cf", "Zs", "Zl", "Zp", "Nd"),
    exclude_characters="\\/.\",;:#{<|[(}])'",
)
WORD = st.text(LETTERS, min_size=1, max_size=6)
NAME = st.lists(WORD, min_size=1, max_size=2).map(" ".join)


@pytest.mark.parametrize("form", FORMS)
@given(labels=st.dictionaries(NAME, st.lists(NAME, max_size=4, unique=True), min_size=1))
def test_what_is_right_is_read(form: str, labels: Labels) -> None:
    fields = {*IMAGE_FIELDS, *LABEL_FIELDS, *LABEL_NUMBERS}  # a column of such a name is no class
    assume(not any(plain_field(name) in fields for names in labels.values() for name in names))
    classes = {normalize("NFC", name) for names in labels.values() for name in names}
    table = read_or_refuse(lambda path: read_label_file(path, classes), Path(form), FORMS[form](labels).encode())
    wanted = {key: list(dict.fromkeys(normalize("NFC", name) for name in names)) for key, names in labels.items()}
    assert table is not None and table.entries.keys() == wanted.keys()
    for key, entry in table.entries.items():
        in_order = sorted if form == "columns.csv" else list
        assert in_order(entry.names) == in_order(wanted[key])


def test_found_by_fuzzing() -> None:
    """A name that is empty, in quotes, in either form."""
    for line in ('"": dog', 'a dog\n"" : dog', '"" dog'):
        assert read_or_refuse(read_label_file, Path("labels.txt"), line.encode()) is None


def test_texts_without_measure() -> None:
    """Each is short of the largest line: many names, quotes, colons, one long name, depth."""
    for line in ("a " + " ".join(map(str, range(1000, 101_000))), 'a ""' * 200_000,
                 "a " + "x" * 1_000_000, "a: " + "," * 500_000):  # fmt: skip
        check("labels.txt", line.encode())
    for rest in ('a,"' + "x" * 200_000, "," * 500_000, "a,dog\n" * 50_000):
        check("labels.csv", f"image,labels\n{rest}".encode())
    for depth in (100, 990, 100_000):
        for name in NAMES[1:4]:
            check(name, f'{{"image": "a", "labels": {"[" * depth}{"]" * depth}}}'.encode())


# --- what is typed after --labels -----------------------------------------------------------------

PIECES = ["dog", "traffic light", "person", "folders", "clip", ",", " ", "x", "\x1b", "\0", "\ud800", "ü", "\n",
          "x" * 300, "\\", ".txt", "*", "~"]  # fmt: skip


def check_argument(argument: str) -> None:
    try:
        with patience():
            table = read_labels_argument(argument, SPEC, IMAGES.paths)
    except UserError as error:
        check_message(str(error))
    else:
        check_table(table)


@given(st.one_of(st.lists(st.sampled_from(PIECES), max_size=6).map("".join), st.text(max_size=20)))
def test_any_text(argument: str) -> None:
    assume(not argument.startswith(("/", "..")))  # would be a folder of the machine
    check_argument(argument)
