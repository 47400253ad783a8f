"""Label files as lines of words: any bytes, any words."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dataset.labels import read_label_file
from tests.fuzz.labelled import check_table
from tests.fuzz.support import any_bytes, read_or_refuse

WHOLE = [
    b'# mine\na person dog\n"sub/c d" "traffic light"\nb 0 2\n',
    b'a.jpg: person, traffic light\n"sub/c d.png": dog\n',
    "\ufeffgrün dog\r\nb\r\n".encode(),
    b"a dgo\nb zebra traffic\na 7\n",
]


@given(any_bytes(*WHOLE))
def test_any_bytes(data: bytes) -> None:
    check_table(read_or_refuse(read_label_file, Path("labels.txt"), data))


WORDS = st.text(st.sampled_from("ab dogü0\"':,;#\t/.\\\x1b\x85\u2028\u202e"), max_size=12)


@given(st.lists(WORDS, max_size=6))
def test_any_words(lines: list[str]) -> None:
    check_table(read_or_refuse(read_label_file, Path("labels.txt"), "\n".join(lines).encode()))


NAME = st.sampled_from(("dog", "traffic light", "person", "x"))


@given(st.dictionaries(st.sampled_from(("a", "sub/c d", "grün", "x/y")), st.lists(NAME, max_size=4, unique=True)))
def test_what_is_right_is_read(labels: dict[str, list[str]]) -> None:
    quoted = "".join(" ".join(f'"{word}"' for word in (key, *names)) + "\n" for key, names in labels.items())
    colons = "".join(f"{key}: {', '.join(names)}\n" for key, names in labels.items())
    for text in (quoted, colons):
        table = read_or_refuse(read_label_file, Path("labels.txt"), b"# x\n" + text.encode())
        assert table is not None
        assert {key: list(entry.names) for key, entry in table.entries.items()} == labels


def test_found_by_fuzzing() -> None:
    """A name that is empty, in quotes, in either form."""
    for line in ('"": dog', 'a dog\n"" : dog', '"" dog'):
        assert read_or_refuse(read_label_file, Path("labels.txt"), line.encode()) is None


def test_lines_that_would_take_for_ever() -> None:
    """Each is short of the largest line: 100,000 unknown names, accents in no order, quotes, colons, one long name."""
    accents = "\u0327\u0301" * 250_000
    for line in ("a " + " ".join(map(str, range(1000, 101_000))), f"{accents} dog", 'a ""' * 200_000, "a:" * 500_000,
                 "a " + "x" * 1_000_000, "a/" * 500_000, '"' * 1_000_000, "a: " + "," * 1_000_000):  # fmt: skip
        check_table(read_or_refuse(read_label_file, Path("labels.txt"), line.encode()))
    many = "".join(f"a name{n}\n" for n in range(50_000)).encode()
    check_table(read_or_refuse(read_label_file, Path("labels.txt"), many))
