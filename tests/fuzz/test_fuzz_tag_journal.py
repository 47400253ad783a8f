"""The journal of an interrupted tagging: any bytes after its first line count as far as they make sense."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.files.tag_journal import Entry, Journal
from tests.fuzz.support import any_bytes, read_or_refuse

RECORD = json.dumps({"model": "tiny"})
WHOLE = [f'{RECORD}\n["a", "9-ab", [0.5, 1.0]]\n["sub/b c", "7-cd", [0.25, 0.0]]\n'.encode()]


def check(data: bytes) -> dict[str, Entry]:
    found = read_or_refuse(lambda path: Journal(path, RECORD).read(), Path("tags.txt.part"), data)
    assert found is not None
    for key, entry in found.items():
        assert isinstance(key, str) and isinstance(entry.source, str)
        assert entry.scores.dtype == np.float32 and entry.scores.ndim == 1
    return found


@given(any_bytes(*WHOLE))
def test_any_bytes(data: bytes) -> None:
    check(data)


ODD = st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=3), st.lists(st.floats(width=16), max_size=3),
                st.sampled_from((10**400, [10**400], [[1], [2]], [[1], [2, 3]], {}, ["1"])))  # fmt: skip


@given(st.lists(st.lists(ODD, max_size=4), max_size=4))
def test_any_json(rows: list[Any]) -> None:
    check(f"{RECORD}\n{''.join(json.dumps(row) + chr(10) for row in rows)}".encode())


def test_a_whole_one_is_read() -> None:
    found = check(WHOLE[0])
    assert {key: (entry.source, entry.scores.tolist()) for key, entry in found.items()} == {
        "a": ("9-ab", [0.5, 1.0]),
        "sub/b c": ("7-cd", [0.25, 0.0]),
    }
    assert check(WHOLE[0].replace(b"tiny", b"other")) == {}
