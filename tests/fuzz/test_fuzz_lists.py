"""Lists of classes and of image ids (split files): any bytes, any lines, and lists without measure."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dataset.classes_file import MAX_NAME, MAX_PROMPT, MAX_PROMPTS, read_classes
from dataset.folder import read_ids
from dataset.spec import DatasetSpec
from dataset.voc_layout import read_split
from tests.fuzz.support import any_bytes, check_ids, read_or_refuse

WHOLE = [
    b"dog  # any\ntraffic light: traffic light; stop-light\n[background]\ngrass\ncloudy sky\n",
    "\ufeff# klassen\r\nK\u00e4se\r\nbrot: brot; laib\r\n".encode(),
]


def check_spec(spec: DatasetSpec | None) -> None:
    if spec is None:
        return
    assert 0 < len(spec.classes) < 255 and len(set(map(str.casefold, spec.classes))) == len(spec.classes)
    assert max(map(len, spec.classes)) <= MAX_NAME and not any(set(',;"') & set(name) for name in spec.classes)
    for group in (*spec.prompts, spec.background_prompts):
        assert len(group) <= MAX_PROMPTS and all(0 < len(prompt) <= MAX_PROMPT for prompt in group)
        assert not any(ord(sign) < 32 or 127 <= ord(sign) < 160 for prompt in group for sign in prompt)


@given(any_bytes(*WHOLE))
def test_any_bytes(data: bytes) -> None:
    check_spec(read_or_refuse(read_classes, Path("classes.txt"), data))


LINE = st.one_of(
    st.text(st.sampled_from("ab :;#[],\"'0\t\x1b\u2028ſßs"), max_size=9), st.sampled_from(("[background]", "dog"))
)


@given(st.lists(LINE, max_size=8))
def test_any_lines(lines: list[str]) -> None:
    check_spec(read_or_refuse(read_classes, Path("classes.txt"), "\n".join(lines).encode()))


PROMPT = st.text("ab cü-", min_size=1, max_size=8).map(lambda text: " ".join(text.split())).filter(bool)


@given(st.dictionaries(PROMPT, st.lists(PROMPT, min_size=1, max_size=3), min_size=1, max_size=5),
       st.lists(PROMPT, min_size=1, max_size=4, unique=True))  # fmt: skip
def test_what_is_right_is_read(groups: dict[str, list[str]], background: list[str]) -> None:
    lines = [f"{name}: {'; '.join(prompts)}" for name, prompts in groups.items()]
    data = "\n".join([*lines, "[background]", *background]).encode()
    spec = read_or_refuse(read_classes, Path("classes.txt"), data)
    assert spec is not None and spec.classes == tuple(groups) and spec.background_prompts == tuple(background)
    assert spec.prompts == tuple(map(tuple, groups.values()))


def test_lists_without_measure_are_refused() -> None:
    lines = [f"class {number}" for number in range(200_000)]
    many = ("\n".join(lines), "\n".join(["a", "[background]", *lines]), "a: b; " * 90_000, "a: " + "b;" * 2000)
    long = ("a" * 2000, "a" * 2_000_000, "a: " + "b" * 2000, "a:" * 400_000, "a\n[background]\n" + "b" * 2000)
    for text in (*many, *long):
        assert read_or_refuse(read_classes, Path("classes.txt"), text.encode()) is None


# --- split files ------------------------------------------------------------------------------------

SPLITS = [b"2007_000032\n2007_000039\n", b"sub/a 1\r\nb -1\r\n", "\ufeffgrün\n# so\nmy photo.jpg\n".encode(), b"a\rb\r"]


@given(any_bytes(*SPLITS))
def test_any_bytes_of_a_split(data: bytes) -> None:
    for read in (read_split, read_ids):
        ids = read_or_refuse(read, Path("s.txt"), data)
        assert ids is None or ids
        check_ids(ids or [])


PART = st.text(st.sampled_from("ab./\\ ~:\u0308ü\x1b\n\u2028\x85\ud800#"), max_size=6)


@given(st.lists(PART, max_size=5))
def test_any_lines_of_a_split(lines: list[str]) -> None:
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    for read in (read_split, read_ids):
        check_ids(read_or_refuse(read, Path("s.txt"), data) or [])


NAMES = st.lists(st.text("aü7_-", min_size=1, max_size=6), min_size=1, max_size=3).map("/".join)


@given(st.lists(NAMES, min_size=1, max_size=9, unique=True))
def test_a_right_split_is_read(ids: list[str]) -> None:
    for end in ("\n", "\r\n", "\r"):
        Path("s.txt").write_bytes(end.join(ids).encode())
        assert read_split(Path("s.txt")) == read_ids(Path("s.txt")) == ids
