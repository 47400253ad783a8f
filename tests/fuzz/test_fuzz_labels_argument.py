"""What is typed after --labels: any text, and folders of XML files with any names."""

import os
from contextlib import suppress
from pathlib import Path

from hypothesis import assume, given
from hypothesis import strategies as st

from common.errors import UserError
from dataset.labels import read_labels_argument
from tests.fuzz.labelled import IMAGES, check_table
from tests.fuzz.support import SPEC, check_message, patience

PIECES = [
    "dog",
    "traffic light",
    "person",
    "folders",
    "clip",
    ",",
    " ",
    "x",
    "\x1b",
    "\0",
    "\ud800",
    "ü",
    "\n",
    "x" * 300,
]
TYPED = st.lists(st.sampled_from([*PIECES, "\\", ".txt", "*", "~"]), max_size=6)


def check_argument(argument: str) -> None:
    try:
        with patience():
            table = read_labels_argument(argument, SPEC, IMAGES.paths)
    except UserError as error:
        check_message(str(error))
    else:
        check_table(table)


@given(st.one_of(TYPED.map("".join), st.text(max_size=20)))
def test_any_text(argument: str) -> None:
    assume(not argument.startswith(("/", "..")))  # would be a folder of the machine
    check_argument(argument)


NAME = st.binary(min_size=1, max_size=9).filter(lambda name: not {0, 47} & set(name))
CONTENT = st.sampled_from((b"<a/>", b"<a", b"<a><object><name>dog</name></object></a>"))


@given(st.lists(st.tuples(NAME, CONTENT), max_size=4))
def test_any_names_of_xml_files(files: list[tuple[bytes, bytes]]) -> None:
    folder = Path("xml")
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name, content in files:
        with suppress(OSError):  # macOS has no file names but Unicode
            (folder / os.fsdecode(name + b".xml")).write_bytes(content)
    check_argument("xml")
