"""Wounded label files of every form: a table, or one line; and JSON of any shape in the places of tasks and samples."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from dataset.labels import read_label_file
from dataset.readers import fiftyone, json_rows, label_studio, labelme
from tests.fuzz.conftest import EXAMPLES
from tests.fuzz.labelled import check_table
from tests.fuzz.support import any_bytes, check_message, patience, read_or_refuse
from tests.label_files import CLASSES, FORMATS, write_form

pytestmark = pytest.mark.slow

SOME = int(EXAMPLES or 10)  # examples a form


def read_all(files: dict[str, bytes]) -> None:
    source = write_form(Path(tempfile.mkdtemp(dir=".")), files)
    try:
        with patience():
            table = read_label_file(source, CLASSES)
    except UserError as error:
        check_message(str(error))
    else:
        check_table(table)
        check_message(table.summary())


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=SOME)
@given(number=st.integers(0, 9), data=st.data())
def test_wounded_files(form: str, number: int, data: st.DataObject) -> None:
    files = {name: text.encode() for name, text in FORMATS[form].items()}
    names = [name for name in files if not name.endswith("/")]
    name = names[number % len(names)]
    files[name] = data.draw(any_bytes(files[name], *(files[other] for other in names)))
    read_all(files)


KEYS = st.sampled_from(
    "image data annotations result value type choices labels shapes label imagePath flags samples filepath classes "
    "detections _cls rectanglelabels id completions path names a.jpg".split()
)
TEXTS = st.sampled_from(("dog", "a.jpg", "choices", "Detections", "../x", "\ud800", "s3://x/%00.jpg"))
LEAF = st.one_of(st.none(), st.booleans(), st.integers(-2, 5), st.floats(), st.text(max_size=4), TEXTS)
ANY = st.recursive(
    LEAF,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)


@given(ANY)
def test_any_json_of_known_keys(value: Any) -> None:
    check_table(read_or_refuse(lambda path: read_label_file(path, CLASSES), Path("l.json"), json.dumps(value).encode()))


@given(st.sampled_from((label_studio, fiftyone, labelme, json_rows)), ANY)
def test_a_reader_takes_what_it_recognises(reader: Any, value: Any) -> None:
    """Each for itself, whatever reader would come before it."""
    from dataset.label_source import LabelSource

    def read(path: Path) -> Any:
        source = LabelSource(path, frozenset(CLASSES))
        return reader.read(source) if reader.recognises(source) else None

    check_table(read_or_refuse(read, Path("l.json"), json.dumps(value).encode()))


DOUBLING = "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nnames: *c"
YAML = ["names: &a [*a]", "names: " + "[" * 2000, "names: !!python/object:os.system [x]", DOUBLING, "names: {a: b}",
        "\0", "names: [1, 2]", "names:\n- x\n- [1]", "names: {1: a, 1: b}"]  # fmt: skip


@pytest.mark.parametrize("text", YAML)
def test_harsh_yaml(text: str) -> None:
    read_all({"y.yaml": text.encode(), "labels/a.txt": b"0 0 0 1 1\n"})
