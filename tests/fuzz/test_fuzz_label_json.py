"""Label files as JSON Lines: any bytes, any JSON; what Python's own writer puts in comes out."""

import json
from pathlib import Path
from typing import Any
from unicodedata import normalize

from hypothesis import given
from hypothesis import strategies as st

from dataset.labels import read_label_file
from tests.fuzz.labelled import check_table
from tests.fuzz.support import any_bytes, read_or_refuse

WHOLE = [
    b'{"image": "a.jpg", "labels": ["dog", "person"]}\n{"image": "sub/c d.jpg", "labels": []}\n',
    b'{\n  "image": "gr\\u00fcn",\n  "labels": ["traffic light"]\n}\n',
    b'{"image": "\\ud83d\\ude00", "labels": ["\\ud800", "\\u001b[2J"]}\n',
]
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)
NAMES = ("labels.jsonl", "labels.json", "labels.txt")


@given(any_bytes(*WHOLE))
def test_any_bytes(data: bytes) -> None:
    for name in NAMES:
        check_table(read_or_refuse(read_label_file, Path(name), data))


@given(st.lists(st.one_of(JSON, st.fixed_dictionaries({"image": JSON, "labels": JSON})), max_size=3))
def test_any_json(rows: list[Any]) -> None:
    for name in NAMES:
        data = "\n".join(json.dumps(row) for row in rows).encode()
        check_table(read_or_refuse(read_label_file, Path(name), data))


LETTERS = st.characters(min_codepoint=33, exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp"), exclude_characters="\\/.")


@given(st.dictionaries(st.text(LETTERS, min_size=1, max_size=6), st.lists(st.text(LETTERS, min_size=1), unique=True)))
def test_what_is_right_is_read(labels: dict[str, list[str]]) -> None:
    rows = [json.dumps({"image": key, "labels": names}) + "\n" for key, names in labels.items()]
    table = read_or_refuse(read_label_file, Path("labels.jsonl"), "".join(rows).encode())
    assert table is not None and {key: list(entry.names) for key, entry in table.entries.items()} == {
        key: list(dict.fromkeys(normalize("NFC", name) for name in names)) for key, names in labels.items()
    }


def test_depths_and_numbers_without_measure() -> None:
    """Nested at any depth, those near Python's own limit included."""
    for depth in (100, *range(900, 1000), 3000, 100_000):
        for row in (f"{'[' * depth}{']' * depth}", f'{{"image": "a", "labels": {"[" * depth}{"]" * depth}}}'):
            for name in NAMES:
                check_table(read_or_refuse(read_label_file, Path(name), row.encode()))
    for number in ("1e999", "-1e999", "NaN", "9" * 5000, "1" * 900_000, "-0"):
        line = f'{{"image": "a", "labels": [{number}]}}'.encode()
        assert read_or_refuse(read_label_file, Path("labels.jsonl"), line) is None
