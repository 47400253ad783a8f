"""VOC annotations: any bytes, any tree of elements, and the bombs that XML is known for."""

from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from dataset.readers.voc_xml import read_names
from tests.fuzz.support import any_bytes, read_or_refuse

pytestmark = pytest.mark.slow

WHOLE = [
    b"<annotation><object><name>dog</name></object><object><name>cat</name></object></annotation>",
    b'<?xml version="1.0" encoding="iso-8859-1"?><annotation><object><name>k\xe4se</name><part/></object></annotation>',
    '<?xml version="1.0" encoding="utf-16"?><annotation><object><name>dog</name></object></annotation>'.encode(
        "utf-16"
    ),
    b'<!DOCTYPE a [<!ENTITY e "dog">]><annotation><object><name>&e;</name></object></annotation>',
]


@given(any_bytes(*WHOLE))
def test_any_bytes(data: bytes) -> None:
    names = read_or_refuse(read_names, Path("a.xml"), data)
    assert names is None or (len(set(names)) == len(names) and all(name == name.strip() for name in names))


LETTERS = st.characters(min_codepoint=32, exclude_categories=("Cs", "Cn", "Cc"))


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> Any:
    """An element, often of VOC's names, with any text."""
    element = etree.Element(draw(st.sampled_from(("annotation", "object", "name", "part", "x"))))
    element.text, element.tail = draw(st.text(LETTERS, max_size=8)), draw(st.text(LETTERS, max_size=3))
    for child in draw(st.lists(trees(depth - 1), max_size=4)) if depth else ():
        element.append(child)
    return element


@given(trees())
def test_any_tree(root: Any) -> None:
    root.tail = None
    said = read_or_refuse(read_names, Path("a.xml"), etree.tostring(root, encoding="utf-8", xml_declaration=True))
    objects = [
        [(name.text or "").strip() for name in item if name.tag == "name"] for item in root if item.tag == "object"
    ]
    texts = [normalize("NFC", text) for names in objects for text in names]
    right = root.tag == "annotation" and all(names and all(names) for names in objects)
    assert said == (tuple(dict.fromkeys(texts)) if right else None)


def bombs() -> dict[str, str]:
    """Small files that want to become large ones, or to read others."""
    doubling = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(12))
    percent = "".join(f"<!ENTITY % p{n + 1} '{f'%p{n};' * 10}'>" for n in range(12))
    name = "<annotation><object><name>{}</name></object></annotation>"
    return {
        "billion laughs": f'<!DOCTYPE a [<!ENTITY e0 "dog">{doubling}]>{name.format("&e12;")}',
        "parameter entities": f"<!DOCTYPE a [<!ENTITY % p0 'dog'>{percent}%p12;]>{name.format('dog')}",
        "quadratic": f'<!DOCTYPE a [<!ENTITY e "{"d" * 100_000}">]>{name.format("&e;" * 100_000)}',
        "file": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + name.format("&x;"),
        "DTD": '<!DOCTYPE annotation SYSTEM "http://127.0.0.1:9/voc.dtd">' + name.format("dog"),
    }


@pytest.mark.parametrize("bomb", bombs())
def test_bombs_are_refused(bomb: str) -> None:
    assert read_or_refuse(read_names, Path("a.xml"), bombs()[bomb].encode()) is None


@pytest.mark.parametrize("start", ["<?xml-stylesheet href='file:///etc/passwd' type='text/xsl'?>", ""])
def test_links_to_other_files_are_not_followed(start: str) -> None:
    include = "<xi:include xmlns:xi='http://www.w3.org/2001/XInclude' href='/etc/passwd' parse='text'/>"
    data = f"{start}<annotation><object><name>dog{include}</name></object></annotation>".encode()
    assert read_or_refuse(read_names, Path("a.xml"), data) == ("dog",)
