"""Split files, VOC's and a user's own: whatever the bytes, only ids that stay in the image folder come out."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dataset.folder import read_ids
from dataset.voc_layout import read_split
from tests.fuzz.support import any_bytes, check_ids, read_or_refuse

WHOLE = [b"2007_000032\n2007_000039\n", b"sub/a 1\r\nb -1\r\n", "\ufeffgrün\n# so\nmy photo.jpg\n".encode(), b"a\rb\r"]


@given(any_bytes(*WHOLE))
def test_any_bytes(data: bytes) -> None:
    for read in (read_split, read_ids):
        ids = read_or_refuse(read, Path("s.txt"), data)
        assert ids is None or ids
        check_ids(ids or [])


PART = st.text(st.sampled_from("ab./\\ ~:\u0308ü\x1b\n\u2028\x85\ud800#"), max_size=6)


@given(st.lists(PART, max_size=5))
def test_any_lines(lines: list[str]) -> None:
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    for read in (read_split, read_ids):
        check_ids(read_or_refuse(read, Path("s.txt"), data) or [])


NAMES = st.lists(st.text("aü7_-", min_size=1, max_size=6), min_size=1, max_size=3).map("/".join)


@given(st.lists(NAMES, min_size=1, max_size=9, unique=True))
def test_what_is_right_is_read(ids: list[str]) -> None:
    for end in ("\n", "\r\n", "\r"):
        Path("s.txt").write_bytes(end.join(ids).encode())
        assert read_split(Path("s.txt")) == read_ids(Path("s.txt")) == ids
