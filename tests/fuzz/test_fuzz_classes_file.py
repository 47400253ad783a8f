"""The classes file: any bytes, any lines, and lists that would keep a tokenizer busy for ever."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dataset.classes_file import MAX_NAME, MAX_PROMPT, MAX_PROMPTS, read_classes
from dataset.spec import DatasetSpec
from tests.fuzz.support import any_bytes, read_or_refuse

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
